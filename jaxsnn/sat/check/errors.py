"""Why a proof is refused."""


class ProofError(ValueError):
    """The proof does not show what it claims; the message says where it fails."""
