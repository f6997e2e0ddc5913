//! What prefill and decode share: the vLLM-shaped HTTP server around an engine loop.
