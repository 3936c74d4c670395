"""Weight files: which there are, and their tensors, without running anything that a file holds.

Weights come as safetensors, as pickles of tensors, as Keras HDF5, or as OpenAI's TorchScript archives. A pickle is a
program: only those that build plain tensors are read, all others are refused.
"""
