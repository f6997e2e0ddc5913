//! Pure model of a vLLM engine: KV blocks, prefix cache, scheduler, cost.
