"""Other engines behind the native one's interface: the same prompts to the token, the same journal and figures."""
