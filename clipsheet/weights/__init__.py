"""Weight files: which there are, and their tensors, without running anything that a file holds.

Weights come as safetensors, as pickles of tensors, or in Hugging Face folders. A pickle is a program: only those that
build plain tensors are read, all others are refused. Other formats are read by tools.convert only.
"""
