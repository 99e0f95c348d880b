"""How each set of weights is fitted: collaborative models, quantiser, alignment, language model."""
