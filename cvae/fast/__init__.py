"""The same training step, faster: gradient written out, CPU kernel, CUDA graph."""
