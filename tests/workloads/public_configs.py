"""Public config.json figures of some models, as their files name them."""

LLAMA = {
  'model_type': 'llama', 'num_hidden_layers': 32, 'hidden_size': 4096,
  'intermediate_size': 14336, 'num_attention_heads': 32,
  'num_key_value_heads': 8, 'vocab_size': 128256, 'hidden_act': 'silu',
  'max_position_embeddings': 131072, 'rms_norm_eps': 1e-5,
  'torch_dtype': 'bfloat16', 'rope_theta': 500000.0, 'use_cache': True,
}  # fmt: skip
DEEPSEEK = {
  'model_type': 'deepseek_v3', 'num_hidden_layers': 61, 'hidden_size': 7168,
  'intermediate_size': 18432, 'moe_intermediate_size': 2048,
  'num_attention_heads': 128, 'num_key_value_heads': 128,
  'n_routed_experts': 256, 'n_shared_experts': 1, 'num_experts_per_tok': 8,
  'first_k_dense_replace': 3, 'moe_layer_freq': 1, 'q_lora_rank': 1536,
  'kv_lora_rank': 512, 'qk_nope_head_dim': 128, 'qk_rope_head_dim': 64,
  'v_head_dim': 128, 'vocab_size': 129280, 'num_nextn_predict_layers': 1,
  'max_position_embeddings': 163840,
  'quantization_config': {'quant_method': 'fp8', 'fmt': 'e4m3',
                          'weight_block_size': [128, 128]},
}  # fmt: skip
QWEN3_MOE = {
  'model_type': 'qwen3_moe', 'num_hidden_layers': 48, 'hidden_size': 2048,
  'intermediate_size': 6144, 'moe_intermediate_size': 768,
  'num_experts': 128, 'num_experts_per_tok': 8, 'num_attention_heads': 32,
  'num_key_value_heads': 4, 'head_dim': 128, 'vocab_size': 151936,
  'max_position_embeddings': 40960, 'decoder_sparse_step': 1,
  'mlp_only_layers': [], 'max_window_layers': 48, 'sliding_window': None,
  'use_sliding_window': False, 'tie_word_embeddings': False,
}  # fmt: skip
