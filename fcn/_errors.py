"""How errors of other people's code are told."""


def reason(error: BaseException) -> str:
    """What it says, on one line; its class where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
