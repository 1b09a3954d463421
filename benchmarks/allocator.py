"""How processes that measure get their memory from the system."""

__all__ = ["ALLOCATOR"]

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
"""What a process that measures is started with, whatever it measures: glibc's malloc keeps freed
memory, as torch's allocator does on CUDA. Left to itself it gives blocks back to the kernel by the
sizes that a program happens to free first; fetching them again took from 0 to 40 % of a training
step, and changing a tensor's size by a sixth moved a flow from one to the other. The first is the
largest that glibc takes (mallopt(3), M_MMAP_THRESHOLD)."""
