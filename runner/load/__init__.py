"""Load: requests that arrive one by one through the asynchronous engine."""
