"""From a batch of queries to verdicts: cheap batched stages, a complete one last."""
