"""Other libraries' flows as contestants, each library loaded when one of its flows is built."""
