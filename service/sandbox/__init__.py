"""Disposable processes that read hostile media with `media`."""
