"""CLIP: the image feature that aesthetics, safety, matching and search start from, and its text half.

A model is a folder of `pretrained_models/` as Hugging Face has it (CLIP, SigLIP or SigLIP 2 of fixed
size); tools.convert makes one of OpenAI's own `ViT-*.pt` files. CLIP: Radford et al., "Learning Transferable Visual
Models From Natural Language Supervision", ICML 2021; SigLIP: Zhai et al., "Sigmoid Loss for Language
Image Pre-Training", ICCV 2023.
"""
