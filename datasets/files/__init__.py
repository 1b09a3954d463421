"""Files on disk: where they lie and come from, how they are told apart, read and kept."""
