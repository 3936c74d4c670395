"""Language models that can be asked: one frozen value per kind of model.

A model knows its files, how frames are prepared for it in a worker process, how it is loaded, and how it answers an
`Ask`. It knows no columns, prompts, captions or windows, so any question can be put to any model. The questions are in
`captioning/`.
"""
