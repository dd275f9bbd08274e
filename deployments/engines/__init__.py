"""From (premise, hypothesis) pairs to logits."""
