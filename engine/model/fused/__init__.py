"""The frame step as a chain of fused Triton kernels. Imported only where there is a GPU, and by its tests."""
