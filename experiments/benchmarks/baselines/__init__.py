"""Published verifiers of temporally coded networks, from their description."""
