"""Language-model tasks that tie codes to words (LC-Rec, Zheng et al. 2023; Semantic Convergence, Li et al. 2024, stage
2): templates as data, a function each, and the mixture that draws them by weight.

A task gives a prompt and the response that the loss falls on. The next item itself is no task here: it is every
position of every history (`genrec.training.lm.data.history_examples`).
"""
