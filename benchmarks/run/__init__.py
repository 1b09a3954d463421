"""What runs cells: slots on this machine."""
