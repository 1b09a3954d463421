"""The harness: matrix files to cells, cells to records, records to reports."""
