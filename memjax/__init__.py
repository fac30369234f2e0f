"""memjax: generative models with memory."""

__version__ = "0.1.0"
