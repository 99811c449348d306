#include "core/backend/describe_layer.h"

namespace kvreplay {

void describe_layer(LoadedLayer& loaded, const Trace& trace, int layer) {
  const ModelInfo& model = trace.model();
  loaded.trace = &trace;
  loaded.layer = layer;
  loaded.num_query_heads = model.num_query_heads;
  loaded.num_kv_heads = model.num_kv_heads;
  loaded.head_dim = model.head_dim;
  loaded.hidden_size = model.hidden_size;
  loaded.attention_scale = model.attention_scale;
  loaded.logit_softcap = model.logit_softcap.value_or(0);
  loaded.sliding_window = trace.sliding_window(layer);
  loaded.tokens = trace.num_tokens();
  loaded.prompt = trace.prompt_length();
  // What the last prompt query no longer sees is gone from a rolling cache when the prompt ends.
  loaded.first_candidate = loaded.prompt > 0 ? loaded.first_visible(loaded.prompt - 1) : 0;
}

}  // namespace kvreplay
