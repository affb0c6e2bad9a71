//! One rank's step as the sum of its kernels, its collectives and what the host cannot hide: which kernels a layer of a
//! given architecture runs under tensor, expert, pipeline, data and context parallelism. Formulas of single kernels are
//! in `kernels`, constants in `parameters`.

use super::kernels::{
    CollectiveKernel, MoeLoad, collective_secs, decode_attention_secs, gemm_secs, moe_secs, prefill_attention_secs,
};
use super::parameters::{CollectiveFamily, Parameters, WeightFormat};
use super::{Regime, StepShape, StepTime};
use crate::SimError;
use crate::catalog::{Attention, GpuSpec, ModelArch};
use crate::config::ServerConfig;

/// Where the time of a step goes, seconds of one rank.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepBreakdown {
    /// Matrix products of all layers and of the output projection.
    pub gemm_secs: f64,
    /// Attention.
    pub attention_secs: f64,
    /// Routed experts.
    pub moe_secs: f64,
    /// Norms, rotary embeddings, activations, sampling.
    pub small_kernels_secs: f64,
    /// Tensor-, expert- and pipeline-parallel communication.
    pub collectives_secs: f64,
    /// Host work, hidden or not.
    pub host_secs: f64,
    /// The step: device or host, whichever sets the pace, and what cannot overlap.
    pub total_secs: f64,
}

/// A matrix product of one layer: output and input width on this rank.
#[derive(Debug, Clone, Copy)]
struct Product {
    n: f64,
    k: f64,
    format: WeightFormat,
    weight_bytes: f64,
}

/// The step-time model of one rank of a server.
#[derive(Debug, Clone)]
pub struct RooflineStepTime {
    parameters: Parameters,
    gpu: GpuSpec,
    model: ModelArch,
    always_eager: bool,
    async_scheduling: bool,
    max_captured: u32,
    tp: f64,
    pp: f64,
    dp: f64,
    dcp: f64,
    /// Products that every layer runs (attention projections).
    attention_products: Vec<Product>,
    /// Products of a dense feed-forward layer, and of a MoE layer's shared experts and router.
    dense_products: Vec<Product>,
    moe_products: Vec<Product>,
    /// Latent attention: products that expand the cached vector for prompt tokens only.
    prefill_products: Vec<Product>,
    full_layers: f64,
    window_layers: f64,
    linear_layers: f64,
    moe_layers: f64,
    dense_layers: f64,
    expert_format: WeightFormat,
    expert_bytes: f64,
    expert_slices: f64,
    expert_ranks: f64,
    expert_parallel: bool,
    expert_traffic_factor: f64,
    imbalance: f64,
    eplb: bool,
    kv_element_bytes: f64,
    /// Passes through one layer of the model and its head that a step's drafts cost; 0: drafts cost nothing on the device.
    draft_passes: f64,
}

impl RooflineStepTime {
    /// The model of one rank of a server with the built-in constants of its device.
    pub fn new(config: &ServerConfig) -> Result<Self, SimError> {
        let parameters = match &config.parameters {
            Some(parameters) => (**parameters).clone(),
            None => Parameters::builtin(&config.gpu)?,
        };
        Ok(Self::with_parameters(config, parameters))
    }

    /// The same with other constants: a user's file, or a calibration.
    pub fn with_parameters(config: &ServerConfig, parameters: Parameters) -> Self {
        let model = config.model.clone();
        let f = f64::from;
        let tp = f(config.tp);
        let body = model.weight_format(config.gpu.fp4_tflops.is_some());
        let body_bytes = model.weight_bits / 8.0;
        let product = |n: f64, k: f64| Product { n, k, format: body, weight_bytes: body_bytes };
        let plain = |n: f64, k: f64| Product { n, k, format: WeightFormat::Bf16, weight_bytes: 2.0 };
        let hidden = f(model.hidden);
        let heads = f(model.heads);
        let mut prefill_products = Vec::new();
        let attention_products = match model.attention {
            Attention::Gqa => {
                let kv = (f(model.kv_heads) / tp).max(1.0);
                let head_dim = f(model.head_dim);
                vec![
                    product((heads / tp).max(1.0) * head_dim + 2.0 * kv * head_dim, hidden),
                    product(hidden, heads * head_dim / tp),
                ]
            }
            Attention::Mla => {
                let query = f(model.nope_dim) + f(model.rope_dim);
                let latent = f(model.kv_lora) + f(model.rope_dim);
                let (first, second) = match model.q_lora {
                    0 => (product(heads * query / tp + latent, hidden), None),
                    rank => (product(f(rank) + latent, hidden), Some(product(heads * query / tp, f(rank)))),
                };
                prefill_products.push(product(heads * (f(model.nope_dim) + f(model.v_dim)) / tp, f(model.kv_lora)));
                let mut list = vec![first];
                list.extend(second);
                // Decodes move queries and outputs through the latent space: two batched products in 16 bits.
                list.push(plain(f(model.nope_dim) * heads / tp, f(model.kv_lora)));
                list.push(plain(f(model.v_dim) * heads / tp, f(model.kv_lora)));
                list.push(product(hidden, heads * f(model.v_dim) / tp));
                list
            }
        };
        let dense_ffn = f(model.dense_ffn);
        let shared = f(model.shared_experts) * f(model.expert_ffn);
        let mut moe_products = vec![plain(f(model.experts), hidden)];
        if shared > 0.0 {
            moe_products.push(product(2.0 * shared / tp, hidden));
            moe_products.push(product(hidden, shared / tp));
        }
        let layers = f(model.layers);
        let linear_layers = f(model.linear_layers.min(model.layers));
        let window_layers = f(model.window_layers).min(layers - linear_layers);
        let moe_layers = f(model.moe_layers());
        Self {
            attention_products,
            dense_products: vec![product(2.0 * dense_ffn / tp, hidden), product(hidden, dense_ffn / tp)],
            moe_products,
            prefill_products,
            always_eager: config.enforce_eager || config.gpu.device == "cpu",
            async_scheduling: config.async_scheduling,
            max_captured: (2 * config.max_num_seqs).min(512),
            tp,
            pp: f(config.pp),
            dp: f(config.dp),
            dcp: f(config.dcp.max(1)),
            full_layers: layers - window_layers - linear_layers,
            window_layers,
            linear_layers,
            moe_layers,
            dense_layers: layers - moe_layers,
            expert_format: model.expert_format(config.gpu.fp4_tflops.is_some()),
            expert_bytes: model.expert_bits.unwrap_or(model.weight_bits) / 8.0,
            expert_slices: if config.expert_parallel { 1.0 } else { f(config.expert_ranks()) },
            expert_ranks: f(config.expert_ranks()),
            expert_parallel: config.expert_parallel,
            // Naive backends gather everything everywhere; all-to-all sends each token where it is needed.
            expert_traffic_factor: if config.all2all_backend == "allgather_reducescatter" { 0.0 } else { 1.0 },
            imbalance: match (config.expert_parallel, config.eplb) {
                (true, true) => parameters.moe_imbalance_eplb,
                (true, false) => parameters.moe_imbalance,
                (false, _) => 1.0,
            },
            eplb: config.eplb && config.expert_parallel,
            kv_element_bytes: config.kv_element_bytes(),
            draft_passes: config.scheduling.speculation.as_ref().map_or(0.0, |spec| f(spec.layer_passes)),
            gpu: config.gpu.clone(),
            model,
            parameters,
        }
    }

    /// The constants in use.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The same, to change them.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    fn peak(&self, format: WeightFormat) -> f64 {
        let bf16 = self.gpu.bf16_tflops;
        let fp8 = self.gpu.fp8_tflops.unwrap_or(bf16);
        1e12 * match format {
            WeightFormat::Bf16 | WeightFormat::WeightOnly => bf16,
            WeightFormat::Fp8 | WeightFormat::Fp8Block => fp8,
            WeightFormat::Fp4 => self.gpu.fp4_tflops.unwrap_or(fp8),
        }
    }

    fn product_secs(&self, product: &Product, rows: f64) -> f64 {
        let Product { n, k, format, weight_bytes } = *product;
        gemm_secs(rows, n, k, weight_bytes, self.peak(format), &self.gpu, self.parameters.gemm(format))
    }

    fn products_secs(&self, products: &[Product], rows: f64) -> f64 {
        products.iter().map(|product| self.product_secs(product, rows)).sum()
    }

    /// Rows that the kernels see and how they are started; the scheduler's own words where it gives them.
    fn launch(&self, shape: &StepShape) -> (f64, Regime) {
        if shape.padded_tokens > 0 {
            let regime = if self.always_eager { Regime::Eager } else { shape.regime };
            return (f64::from(shape.padded_tokens.max(shape.n_tokens)), regime);
        }
        let tokens = shape.n_tokens;
        if self.always_eager || tokens > self.max_captured {
            return (f64::from(tokens), Regime::Eager);
        }
        let padded = match tokens {
            0..=2 => tokens,
            3..=4 => 4,
            5..=256 => tokens.next_multiple_of(8),
            _ => tokens.next_multiple_of(16),
        };
        (f64::from(padded), if shape.prefill_tokens > 0 { Regime::Piecewise } else { Regime::FullGraph })
    }

    /// Attention of requests that compute one token each, in one layer that reads `tokens` of context.
    fn decode_layer_secs(&self, tokens: f64, decode_rows: f64) -> f64 {
        let (f, gpu, model) = (f64::from, &self.gpu, &self.model);
        let heads = (f(model.heads) / self.tp).max(1.0);
        match model.attention {
            Attention::Gqa => {
                let kv_heads = (f(model.kv_heads) / self.tp).max(1.0);
                let head_dim = f(model.head_dim);
                let bytes = 2.0 * kv_heads * head_dim * self.kv_element_bytes / self.dcp;
                let flops = 4.0 * kv_heads * head_dim / self.dcp;
                decode_attention_secs(tokens, bytes, flops, heads / kv_heads, gpu, &self.parameters.attention)
            }
            Attention::Mla => {
                let latent = f(model.kv_lora) + f(model.rope_dim);
                let bytes = latent * self.kv_element_bytes / self.dcp;
                let flops = 2.0 * (latent + f(model.kv_lora)) / self.dcp;
                // Sparse attention reads the index keys of everything (132 bytes each) and the chosen tokens.
                let (read, index) = match model.index_topk {
                    0 => (tokens, 0.0),
                    top => (tokens.min(decode_rows * f(top)), tokens * 132.0 / bandwidth(gpu)),
                };
                let p = &self.parameters.latent_attention;
                decode_attention_secs(read, bytes, flops, heads, gpu, p) + index
            }
        }
    }

    /// Attention of prompt parts in one layer.
    fn prefill_layer_secs(&self, pairs: f64, tokens: f64) -> f64 {
        let (f, gpu, model) = (f64::from, &self.gpu, &self.model);
        let heads = (f(model.heads) / self.tp).max(1.0);
        match model.attention {
            Attention::Gqa => {
                let kv_heads = (f(model.kv_heads) / self.tp).max(1.0);
                let head_dim = f(model.head_dim);
                let io = 2.0 * (2.0 * heads + 2.0 * kv_heads) * head_dim;
                prefill_attention_secs(pairs, 4.0 * heads * head_dim, tokens, io, gpu, &self.parameters.attention)
            }
            Attention::Mla => {
                let width = f(model.nope_dim) + f(model.rope_dim) + f(model.v_dim);
                let kept = match model.index_topk {
                    0 => pairs,
                    top => pairs.min(tokens * f(top)),
                };
                let p = &self.parameters.latent_attention;
                prefill_attention_secs(kept, 2.0 * heads * width, tokens, 4.0 * heads * width, gpu, p)
            }
        }
    }

    /// Attention of the whole model: every kind of layer, decodes and prompt parts.
    fn attention_secs(&self, shape: &StepShape) -> f64 {
        let (f, model) = (f64::from, &self.model);
        let context = shape.decode_context_tokens as f64;
        let decode_rows = f(shape.n_tokens.saturating_sub(shape.prefill_tokens));
        let prefill = f(shape.prefill_tokens);
        let mut total = self.full_layers
            * (self.decode_layer_secs(context, decode_rows) + self.prefill_layer_secs(shape.prefill_pairs, prefill));
        if self.window_layers > 0.0 && model.window > 0 {
            let window = f(model.window);
            // Where the engine does not clip each request, the mean request is clipped.
            let clipped = match shape.decode_window_tokens {
                0 => context.min(decode_rows * window),
                tokens => tokens as f64,
            };
            let pairs = match shape.prefill_window_pairs {
                pairs if pairs > 0.0 => pairs,
                _ => shape.prefill_pairs.min(prefill * window),
            };
            total += self.window_layers
                * (self.decode_layer_secs(clipped, decode_rows) + self.prefill_layer_secs(pairs, prefill));
        }
        // Recurrent layers read and write a state of a fixed size per request, in 32 bits.
        let heads = (f(model.heads) / self.tp).max(1.0);
        let state = heads * f(model.head_dim) * 128.0 * 4.0 * 2.0;
        let floor = self.parameters.attention.decode_floor_us * 1e-6;
        total + self.linear_layers * (f(shape.n_requests) * state / bandwidth(&self.gpu) + floor)
    }

    /// Where one step's time goes.
    pub fn breakdown(&self, shape: &StepShape) -> StepBreakdown {
        let p = &self.parameters;
        let c = &p.calibration;
        let f = f64::from;
        let (rows, regime) = self.launch(shape);
        let in_graph = regime != Regime::Eager;
        let prefill = f(shape.prefill_tokens);
        let prefill_share = if shape.n_tokens > 0 { prefill / f(shape.n_tokens) } else { 0.0 };
        // One rule for all kernels of a step: decode's factor, moving to prefill's as prompt tokens take over.
        let kernels = c.decode_kernels + (c.prefill_kernels - c.decode_kernels) * prefill_share;
        let mut gemm = (self.full_layers + self.window_layers + self.linear_layers)
            * self.products_secs(&self.attention_products, rows)
            + self.dense_layers * self.products_secs(&self.dense_products, rows)
            + self.moe_layers * self.products_secs(&self.moe_products, rows);
        if prefill > 0.0 {
            gemm += self.full_layers * self.products_secs(&self.prefill_products, prefill);
        }
        let head = Product {
            n: f(self.model.vocab) / self.tp,
            k: f(self.model.hidden),
            format: WeightFormat::Bf16,
            weight_bytes: 2.0,
        };
        gemm += self.product_secs(&head, f(shape.n_requests.max(1)));
        if shape.draft_tokens > 0 {
            gemm += self.draft_passes * self.draft_pass_secs(shape, &head);
        }
        let attention = self.attention_secs(shape);
        let moe = self.moe_layers * self.moe_layer_secs(shape, rows);
        let hidden = f(self.model.hidden);
        let small = self.layers()
            * (p.host.small_kernels * p.host.small_kernel_us * 1e-6
                + rows * hidden * 2.0 * p.host.small_kernel_passes / bandwidth(&self.gpu))
            + p.host.sampling_us * 1e-6
            + f(shape.n_requests) * f(self.model.vocab) / self.tp * 4.0 * p.host.sampling_passes / bandwidth(&self.gpu);
        let collectives = c.collectives * self.collectives_secs(shape, rows, in_graph);
        let device = kernels * (gemm + attention + moe + small) + collectives;
        let requests = f(shape.n_requests);
        let per_step = 1e-6 * c.host * (p.host.fixed_us + p.host.per_request_us * requests);
        let launches = 1e-6
            * c.host
            * self.layers()
            * match regime {
                Regime::FullGraph => 0.0,
                Regime::Piecewise => p.host.per_layer_piecewise_us,
                Regime::Eager => p.host.per_layer_eager_us,
            };
        // Launches overlap with the kernels before them: the slower of host and device sets the pace.
        let busy = device.max(launches);
        let total = if self.async_scheduling {
            busy.max(per_step) + 1e-6 * c.host * p.host.async_rest_us
        } else {
            busy + per_step
        };
        StepBreakdown {
            gemm_secs: kernels * gemm,
            attention_secs: kernels * attention,
            moe_secs: kernels * moe,
            small_kernels_secs: kernels * small,
            collectives_secs: collectives,
            host_secs: per_step + launches,
            total_secs: total,
        }
    }

    /// One draft token of every request: a layer of the model's own shape with one row per request, then the head. The
    /// layer's attention reads what the layers of the model read.
    fn draft_pass_secs(&self, shape: &StepShape, head: &Product) -> f64 {
        let rows = f64::from(shape.n_requests.max(1));
        let context = shape.decode_context_tokens as f64 / (1.0 + self.draft_passes);
        self.products_secs(&self.attention_products, rows)
            + self.products_secs(&self.dense_products, rows)
            + self.decode_layer_secs(context, rows)
            + self.product_secs(head, rows)
    }

    fn layers(&self) -> f64 {
        self.full_layers + self.window_layers + self.linear_layers
    }

    fn moe_layer_secs(&self, shape: &StepShape, rows: f64) -> f64 {
        if self.moe_layers <= 0.0 {
            return 0.0;
        }
        let model = &self.model;
        // Every data-parallel rank sends its tokens to the same experts.
        let tokens = match shape.group_tokens {
            0 => rows * self.dp,
            tokens => f64::from(tokens).max(rows),
        };
        let experts = f64::from(model.experts);
        let load = MoeLoad {
            tokens,
            experts,
            experts_here: if self.expert_parallel { experts / self.expert_ranks } else { experts },
            per_token: f64::from(model.experts_per_token),
            hidden: f64::from(model.hidden),
            width: f64::from(model.expert_ffn) / self.expert_slices,
            weight_bytes: self.expert_bytes,
            imbalance: if shape.expert_imbalance > 0.0 { shape.expert_imbalance } else { self.imbalance },
        };
        let moe = moe_secs(&load, self.peak(self.expert_format), &self.gpu, self.parameters.moe(self.expert_format));
        let moved = if self.eplb { self.parameters.eplb_transfer_us * 1e-6 / self.moe_layers } else { 0.0 };
        moe + moved
    }

    fn collectives_secs(&self, shape: &StepShape, rows: f64, in_graph: bool) -> f64 {
        let token_bytes = f64::from(self.model.hidden) * 2.0;
        let secs = |family, ranks, bytes| {
            collective_secs(&CollectiveKernel { family, ranks, bytes, in_graph }, &self.gpu, &self.parameters)
        };
        // After attention, and after a feed-forward layer whose result is spread over the tensor-parallel ranks.
        let mut total = 2.0 * self.layers() * secs(CollectiveFamily::AllReduce, self.tp, rows * token_bytes);
        if self.dp > 1.0 && self.moe_layers > 0.0 {
            let group = match shape.group_tokens {
                0 => rows * self.dp,
                tokens => f64::from(tokens).max(rows),
            };
            let per_layer = if self.expert_traffic_factor > 0.0 {
                let visits = rows * f64::from(self.model.experts_per_token).min(self.expert_ranks);
                2.0 * secs(CollectiveFamily::AllToAll, self.expert_ranks, visits * token_bytes)
            } else {
                let bytes = group * token_bytes;
                secs(CollectiveFamily::AllGather, self.dp, bytes)
                    + secs(CollectiveFamily::ReduceScatter, self.dp, bytes)
            };
            total += self.moe_layers * per_layer;
        }
        if self.dcp > 1.0 {
            let heads = (f64::from(self.model.heads) / self.tp).max(1.0) * f64::from(self.model.head_dim) * 2.0;
            let decodes = f64::from(shape.n_tokens.saturating_sub(shape.prefill_tokens));
            // Queries to all holders of the context, partial results back.
            total += self.layers()
                * (secs(CollectiveFamily::AllGather, self.dcp, decodes * heads * self.dcp)
                    + secs(CollectiveFamily::ReduceScatter, self.dcp, decodes * heads * self.dcp));
        }
        if self.pp > 1.0 {
            total += (self.pp - 1.0) * secs(CollectiveFamily::AllGather, 2.0, rows * token_bytes);
        }
        // The parts of the vocabulary come together for sampling.
        let logits = f64::from(shape.n_requests) * f64::from(self.model.vocab) * 2.0;
        total + secs(CollectiveFamily::AllGather, self.tp, logits)
    }
}

fn bandwidth(gpu: &GpuSpec) -> f64 {
    gpu.bandwidth_gb_per_s * 1e9
}

impl StepTime for RooflineStepTime {
    fn step_nanos(&self, shape: &StepShape) -> u64 {
        ((self.breakdown(shape).total_secs * 1e9) as u64).max(1)
    }
}
