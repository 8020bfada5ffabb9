"""EfficientNet in torch: variants, blocks, checkpoints and fine-tuning."""

import runtime as runtime  # before torch: it says in a sentence what is not installed here
