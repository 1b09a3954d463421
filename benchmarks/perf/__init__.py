"""How fast this project is, over its commits, by asv: the suite, and a plugin for asv."""
