"""Tables of numbers, one a file; :mod:`datasets.tables.steps` holds what their recipes share."""
