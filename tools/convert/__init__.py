"""Weight files in foreign formats, converted to what the run time reads, without running anything that they hold.

Foreign are OpenAI's TorchScript archives of CLIP, TensorFlow SavedModels and Keras HDF5 of LAION's safety head, and
Hugging Face folders with a pickle.
"""
