"""Judge models: language models that annotate answers, by a rubric or by comparing two."""
