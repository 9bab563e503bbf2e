"""As in vLLM."""


class RequestOutputKind:
    FINAL_ONLY = 2
