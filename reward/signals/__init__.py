"""What an answer may be rewarded for beside the word of a reward model."""
