#include "plain_operators.hpp"

#include <ATen/ATen.h>
#include <ATen/core/Reduction.h>
#include <torch/library.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string_view>
#include <tuple>

#include "lean_derivatives.hpp"

namespace hessian_mpi::network {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// --- Weight normalisation ------------------------------------------------------------------------------------------

// LibTorch's kernel takes the norm of v for a constant where its backward is derived again: wrong, and silently so.
Tensor weight_norm(const Tensor& v, const Tensor& g, std::int64_t dim) {
  return v * (g / at::norm_except_dim(v, 2, dim));
}

std::tuple<Tensor, Tensor> weight_norm_and_norm(const Tensor& v, const Tensor& g, std::int64_t dim) {
  const Tensor norm = at::norm_except_dim(v, 2, dim);
  return {v * (g / norm), norm};
}

// --- Distances, margins and an activation --------------------------------------------------------------------------

Tensor plain_hardsigmoid(const Tensor& x) {
  return at::clamp(x / 6 + 0.5, 0, 1);
}

Tensor& hardsigmoid_in_place(Tensor& x) {
  return x.copy_(plain_hardsigmoid(x));
}

// Of each vector along the last dimension. Points that are one, as in cdist of a tensor with itself, stay so whatever
// the parameters are: their distance has no slope, where norm() has a second derivative of 0 / 0.
Tensor lengths(const Tensor& differences, double p) {
  const Tensor is_zero = differences.eq(0).all(-1);
  return differences.masked_fill(is_zero.unsqueeze(-1), 1).norm(p, -1).masked_fill(is_zero, 0);
}

Tensor distances(const Tensor& a, const Tensor& b, double p, std::optional<std::int64_t> /*compute_mode*/) {
  return lengths(a.unsqueeze(-2) - b.unsqueeze(-3), p);
}

Tensor distances_of_pairs(const Tensor& x, double p) {
  TORCH_CHECK(x.dim() == 2, "pdist wants a tensor of two dimensions");
  const Tensor pairs = at::triu_indices(x.size(0), x.size(0), 1, x.options().dtype(at::kLong));
  return lengths(x.index_select(0, pairs[0]) - x.index_select(0, pairs[1]), p);
}

// Of the terms of each sample, or of a single sample.
Tensor reduced(const Tensor& terms, std::int64_t reduction, bool batched) {
  if (reduction == at::Reduction::Mean) return terms.mean();
  if (reduction == at::Reduction::Sum) return terms.sum();
  return batched ? terms : terms.squeeze(0);
}

Tensor multi_margin_loss(const Tensor& scores, const Tensor& targets, const at::Scalar& p, const at::Scalar& margin,
                         const OptionalTensor& weight, std::int64_t reduction) {
  const bool batched = scores.dim() > 1;
  const Tensor x = batched ? scores : scores.unsqueeze(0);
  const Tensor own = targets.reshape({-1, 1});
  TORCH_CHECK(x.dim() == 2 && own.size(0) == x.size(0), "multi_margin_loss: targets of shape ", targets.sizes(),
              " do not fit scores of shape ", scores.sizes());
  Tensor hinge = (x - x.gather(1, own) + margin).relu().pow(p);
  if (weight && weight->defined()) hinge = hinge * weight->take(own);
  return reduced(hinge.scatter(1, own, 0).mean(1), reduction, batched);
}

// The labels of a sample are those before the first -1.
Tensor multilabel_margin_loss(const Tensor& scores, const Tensor& targets, std::int64_t reduction) {
  const bool batched = scores.dim() > 1;
  const Tensor x = batched ? scores : scores.unsqueeze(0);
  const Tensor labels = batched ? targets : targets.unsqueeze(0);
  TORCH_CHECK(x.dim() == 2 && labels.sizes() == x.sizes(), "multilabel_margin_loss: targets of shape ", targets.sizes(),
              " do not fit scores of shape ", scores.sizes());
  const Tensor named = labels.ge(0).cumprod(1);
  const Tensor places = labels.clamp_min(0);
  const Tensor is_label = at::zeros_like(named).scatter_add(1, places, named).gt(0);
  const Tensor hinge = (1 - x.gather(1, places).unsqueeze(2) + x.unsqueeze(1)).relu();
  const Tensor counts = named.gt(0).unsqueeze(2).logical_and(is_label.logical_not().unsqueeze(1));
  return reduced(hinge.masked_fill(counts.logical_not(), 0).sum({1, 2}) / x.size(1), reduction, batched);
}

// --- Connectionist temporal classification -------------------------------------------------------------------------

// For the logarithm of zero: finite, so that no difference of two of them is NaN; its exponential is 0.
constexpr double log_of_zero = -1e30;

// The targets of each sample in a row of [B, longest]; what is beyond a sample's own is any label.
Tensor targets_in_rows(const Tensor& targets, const Tensor& sizes) {
  const auto longest = sizes.max().item<std::int64_t>();
  if (targets.dim() == 2) {
    TORCH_CHECK(targets.size(0) == sizes.size(0) && targets.size(1) >= longest, "ctc_loss: targets of shape ",
                targets.sizes(), " do not fit target lengths of up to ", longest);
    return targets.narrow(1, 0, longest).to(at::kLong);
  }
  TORCH_CHECK(targets.dim() == 1 && targets.numel() == sizes.sum().item<std::int64_t>(), "ctc_loss: targets of shape ",
              targets.sizes(), " do not fit the sum of target lengths");
  const Tensor places = at::arange(longest, sizes.options()).unsqueeze(0);
  const Tensor starts = (sizes.cumsum(0) - sizes).unsqueeze(1);
  return targets.to(at::kLong).take(at::where(places.lt(sizes.unsqueeze(1)), starts + places, at::zeros_like(starts)));
}

// Moves states [B, S] up by some, with log_of_zero for those below.
Tensor moved(const Tensor& states, std::int64_t by) {
  const auto width = states.size(1);
  return at::constant_pad_nd(states.narrow(1, 0, std::max<std::int64_t>(width - by, 0)), {std::min(by, width), 0},
                             log_of_zero);
}

// The negative log-likelihood of each sample, by the forward recursion over states blank, label, blank, ..., label,
// blank; scores are [T, B, C].
Tensor alignment_loss(const Tensor& scores, const Tensor& targets, const Tensor& sizes, const Tensor& target_sizes,
                      std::int64_t blank) {
  const auto samples = scores.size(1);
  const Tensor labels = targets_in_rows(targets, target_sizes);
  const auto states = 2 * labels.size(1) + 1;
  Tensor chain = at::full({samples, states}, blank, labels.options());
  chain.slice(1, 1, states, 2).copy_(labels);
  const Tensor emitted = scores.gather(2, chain.unsqueeze(0).expand({scores.size(0), samples, states}));
  const Tensor before = at::constant_pad_nd(chain.narrow(1, 0, std::max<std::int64_t>(states - 2, 0)),
                                            {std::min<std::int64_t>(2, states), 0}, blank);
  const Tensor skips = chain.ne(blank).logical_and(chain.ne(before));
  const Tensor nothing = at::full({}, log_of_zero, scores.options());
  const Tensor first = at::arange(states, labels.options()).lt(2).unsqueeze(0);
  Tensor alpha = at::where(first, emitted[0], nothing);
  for (std::int64_t t = 1; t < scores.size(0); ++t) {
    const Tensor jump = at::where(skips, moved(alpha, 2), nothing);
    const Tensor next = at::logsumexp(at::stack({alpha, moved(alpha, 1), jump}), 0) + emitted[t];
    alpha = at::where(sizes.gt(t).unsqueeze(1), next, alpha);
  }
  const Tensor last = (2 * target_sizes).unsqueeze(1);
  const Tensor in_label = at::where(target_sizes.gt(0).unsqueeze(1), alpha.gather(1, (last - 1).clamp_min(0)), nothing);
  return -at::logsumexp(at::cat({alpha.gather(1, last), in_label}, 1), 1);
}

Tensor ctc_loss_of_lengths(const Tensor& scores, const Tensor& targets, const Tensor& sizes, const Tensor& target_sizes,
                           std::int64_t blank, std::int64_t reduction, bool zero_infinity) {
  const bool batched = scores.dim() == 3;
  const Tensor all = batched ? scores : scores.unsqueeze(1);
  const Tensor lengths = sizes.to(all.device(), at::kLong).reshape({-1});
  const Tensor target_lengths = target_sizes.to(all.device(), at::kLong).reshape({-1});
  TORCH_CHECK(all.dim() == 3 && lengths.numel() == all.size(1) && target_lengths.numel() == all.size(1),
              "ctc_loss: scores of shape ", scores.sizes(), " do not fit ", lengths.numel(), " input lengths and ",
              target_lengths.numel(), " target lengths");
  TORCH_CHECK(
      lengths.ge(1).logical_and(lengths.le(all.size(0))).all().item<bool>() && target_lengths.ge(0).all().item<bool>(),
      "ctc_loss: input lengths have to be from 1 to ", all.size(0), ", and target lengths not negative");
  TORCH_CHECK(blank >= 0 && blank < all.size(2), "ctc_loss: blank must be a class");
  Tensor loss = alignment_loss(all, targets.to(all.device()), lengths, target_lengths, blank);
  const double without = zero_infinity ? 0 : std::numeric_limits<double>::infinity();
  loss = at::where(loss.detach().gt(-0.1 * log_of_zero), at::full({}, without, loss.options()), loss);
  return reduced(reduction == at::Reduction::Mean ? loss / target_lengths.clamp_min(1) : loss, reduction, batched);
}

Tensor ctc_loss_of_lists(const Tensor& scores, const Tensor& targets, at::IntArrayRef sizes,
                         at::IntArrayRef target_sizes, std::int64_t blank, std::int64_t reduction, bool zero_infinity) {
  return ctc_loss_of_lengths(scores, targets, at::tensor(sizes, at::kLong), at::tensor(target_sizes, at::kLong), blank,
                             reduction, zero_infinity);
}

// --- Bags of embeddings --------------------------------------------------------------------------------------------

// Sums, means or largest of the rows that each bag names.
using BagResult = std::tuple<Tensor, Tensor, Tensor, Tensor>;

enum class BagMode : std::int64_t { sum, mean, max };

struct Bags {
  Tensor places;  // [B, largest bag], positions in the list of indices; any where a bag is smaller
  Tensor inside;  // where it is not
  Tensor sizes;
};

Bags bags_of(const Tensor& offsets, std::int64_t indices, bool include_last_offset) {
  Tensor bounds = offsets.to(at::kLong);
  if (!include_last_offset) bounds = at::cat({bounds, at::full({1}, indices, bounds.options())});
  const auto count = bounds.size(0) - 1;
  const Tensor starts = bounds.narrow(0, 0, count).unsqueeze(1);
  const Tensor sizes = bounds.narrow(0, 1, count) - bounds.narrow(0, 0, count);
  const auto largest = count == 0 ? 0 : sizes.max().item<std::int64_t>();
  const Tensor places = at::arange(largest, bounds.options()).unsqueeze(0);
  const Tensor inside = places.lt(sizes.unsqueeze(1));
  return {at::where(inside, starts + places, at::zeros_like(starts)), inside, sizes};
}

Tensor of_each_bag(const Tensor& rows, const Tensor& inside, BagMode mode) {
  const Tensor outside = inside.logical_not().unsqueeze(2);
  if (mode == BagMode::max) {
    const Tensor largest = std::get<0>(rows.masked_fill(outside, -std::numeric_limits<double>::infinity()).max(1));
    return largest.masked_fill(inside.any(1).logical_not().unsqueeze(1), 0);
  }
  const Tensor sum = rows.masked_fill(outside, 0).sum(1);
  return mode == BagMode::mean ? sum / inside.sum(1).clamp_min(1).unsqueeze(1) : sum;
}

BagResult embedding_bag_with_padding(const Tensor& weight, const Tensor& indices, const Tensor& offsets,
                                     bool scale_grad_by_freq, std::int64_t mode, bool /*sparse*/,
                                     const OptionalTensor& per_sample_weights, bool include_last_offset,
                                     std::optional<std::int64_t> padding_idx) {
  TORCH_CHECK(!scale_grad_by_freq || !weight.requires_grad(),
              "embedding_bag with scale_grad_by_freq has a gradient that is that of no function");
  TORCH_CHECK(mode >= 0 && mode <= 2 && indices.dim() == 1 && offsets.dim() == 1,
              "embedding_bag wants indices and offsets of one dimension, and a mode of 0, 1 or 2");
  const auto bags = bags_of(offsets, indices.numel(), include_last_offset);
  const Tensor none = at::empty({0}, bags.sizes.options());
  if (bags.places.numel() == 0) {
    return {at::zeros({bags.sizes.size(0), weight.size(1)}, weight.options()), none, bags.sizes, none};
  }
  const Tensor chosen = indices.to(at::kLong).take(bags.places);
  Tensor rows = at::embedding(weight, chosen);
  if (per_sample_weights) rows = rows * per_sample_weights->take(bags.places).unsqueeze(2);
  Tensor inside = bags.inside;
  if (padding_idx) {
    const auto padding = *padding_idx < 0 ? *padding_idx + weight.size(0) : *padding_idx;
    inside = inside.logical_and(chosen.ne(padding));
  }
  return {of_each_bag(rows, inside, static_cast<BagMode>(mode)), none, inside.sum(1), none};
}

BagResult embedding_bag(const Tensor& weight, const Tensor& indices, const Tensor& offsets, bool scale_grad_by_freq,
                        std::int64_t mode, bool sparse, const OptionalTensor& per_sample_weights,
                        bool include_last_offset) {
  return embedding_bag_with_padding(weight, indices, offsets, scale_grad_by_freq, mode, sparse, per_sample_weights,
                                    include_last_offset, std::nullopt);
}

// --- On a GPU alone -------------------------------------------------------------------------------------------------

// Tracing writes into the code whether cuDNN and its rounding to TF32 are used, whatever is set for the process.
Tensor convolution_as_set(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, at::IntArrayRef stride,
                          at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
                          at::IntArrayRef output_padding, std::int64_t groups, bool /*benchmark*/,
                          bool /*deterministic*/, bool /*cudnn_enabled*/, bool /*allow_tf32*/) {
  return at::convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups);
}

// LibTorch wants lengths on the host, and those that come with the data are where the data is. Longest first.
std::tuple<Tensor, Tensor> pack_padded_sequence(const Tensor& input, const Tensor& lengths, bool batch_first) {
  TORCH_CHECK(input.numel() > 0, "pack_padded_sequence: the input is empty");
  const Tensor padded = batch_first ? input.transpose(0, 1) : input;
  const Tensor sizes = lengths.to(at::kCPU, at::kLong).contiguous();
  TORCH_CHECK(sizes.dim() == 1 && padded.dim() >= 2 && sizes.size(0) == padded.size(1),
              "pack_padded_sequence: lengths of shape ", lengths.sizes(), " do not fit an input of shape ",
              input.sizes());
  const auto length = sizes.accessor<std::int64_t, 1>();
  for (std::int64_t k = 0; k < sizes.size(0); ++k) {
    TORCH_CHECK(length[k] >= 1 && length[k] <= padded.size(0), "pack_padded_sequence: a length of ", length[k],
                ", where the input has ", padded.size(0), " steps");
    TORCH_CHECK(k == 0 || length[k] <= length[k - 1], "pack_padded_sequence: lengths must be sorted, longest first");
  }
  std::vector<Tensor> steps;
  std::vector<std::int64_t> batch_sizes;
  for (std::int64_t step = 0, samples = sizes.size(0); step < length[0]; ++step) {
    while (length[samples - 1] <= step) --samples;
    steps.push_back(padded[step].narrow(0, 0, samples));
    batch_sizes.push_back(samples);
  }
  return {at::cat(steps), at::tensor(batch_sizes, at::kLong)};
}

// --- Registration --------------------------------------------------------------------------------------------------

torch::Library registered_operators(c10::DispatchKey key) {
  torch::Library library(torch::Library::IMPL, "aten", key, __FILE__, __LINE__);
  library.impl("_weight_norm", TORCH_FN(weight_norm));
  library.impl("_weight_norm_interface", TORCH_FN(weight_norm_and_norm));
  library.impl("hardsigmoid", TORCH_FN(plain_hardsigmoid));
  library.impl("hardsigmoid_", TORCH_FN(hardsigmoid_in_place));
  library.impl("cdist", TORCH_FN(distances));
  library.impl("pdist", TORCH_FN(distances_of_pairs));
  library.impl("multi_margin_loss", TORCH_FN(multi_margin_loss));
  library.impl("multilabel_margin_loss", TORCH_FN(multilabel_margin_loss));
  library.impl("ctc_loss.IntList", TORCH_FN(ctc_loss_of_lists));
  library.impl("ctc_loss.Tensor", TORCH_FN(ctc_loss_of_lengths));
  library.impl("embedding_bag", TORCH_FN(embedding_bag));
  library.impl("embedding_bag.padding_idx", TORCH_FN(embedding_bag_with_padding));
  register_lean_derivatives(library);
  return library;
}

// --- What is called ------------------------------------------------------------------------------------------------

struct Rule {
  std::vector<std::string_view> operators;
  const char* cure;
};

const std::vector<Rule>& rules() {
  static const std::vector<Rule> all = {
      {{"aten::_weight_norm", "aten::_weight_norm_interface"},
       "weight_norm is computed from g and v by plain operators: LibTorch's has wrong second derivatives"},
      {{"aten::hardsigmoid", "aten::hardsigmoid_"},
       "hardsigmoid is computed by plain operators: LibTorch's has no second derivative"},
      {{"aten::cdist"}, "cdist is computed by plain operators: LibTorch's has no second derivative"},
      {{"aten::pdist"}, "pdist is computed by plain operators: LibTorch's has no second derivative"},
      {{"aten::multi_margin_loss"},
       "multi_margin_loss is computed by plain operators: LibTorch's has no second derivative"},
      {{"aten::multilabel_margin_loss"},
       "multilabel_margin_loss is computed by plain operators: LibTorch's has no second derivative"},
      {{"aten::ctc_loss"}, "ctc_loss is computed by plain operators: LibTorch's has no second derivative"},
      {{"aten::embedding_bag"}, "embedding_bag is computed by plain operators: LibTorch's has no second derivative"},
      {{"aten::scaled_dot_product_attention"},
       "attention is computed by matrix products: LibTorch's fused kernels have no second derivative"}};
  return all;
}

// (weight, indices, padding_idx, scale_grad_by_freq, sparse)
bool is_scaled_by_frequency(c10::ArrayRef<const c10::IValue> arguments) {
  return arguments.size() == 5 && arguments[3].isBool() && arguments[3].toBool() &&
         arguments[0].toTensor().requires_grad();
}

}  // namespace

PlainOperators::PlainOperators()
    : on_cpu_(registered_operators(c10::DispatchKey::AutogradCPU)),
      on_gpu_(registered_operators(c10::DispatchKey::AutogradCUDA)) {
  on_gpu_.impl("_convolution", TORCH_FN(convolution_as_set));
  on_gpu_.impl("_pack_padded_sequence", TORCH_FN(pack_padded_sequence));
}

CalledOperators::CalledOperators() : called_(rules().size(), false) {}

std::unique_ptr<at::ObserverContext> CalledOperators::on_start(const at::RecordFunction& function) {
  const std::string_view name = function.name();
  for (std::size_t k = 0; k < rules().size(); ++k) {
    const auto& names = rules()[k].operators;
    if (std::find(names.begin(), names.end(), name) != names.end()) called_[k] = true;
  }
  if (name == "aten::embedding" && is_scaled_by_frequency(arguments_of(function))) scales_by_frequency_ = true;
  return nullptr;
}

std::vector<std::string> CalledOperators::cures() const {
  std::vector<std::string> found;
  for (std::size_t k = 0; k < rules().size(); ++k) {
    if (called_[k]) found.emplace_back(rules()[k].cure);
  }
  return found;
}

std::optional<std::string> CalledOperators::refusal() const {
  if (!scales_by_frequency_) return std::nullopt;
  return "an embedding has scale_grad_by_freq, with which what PyTorch calls its gradient is that of no function, so "
         "that there is no Hessian: set it to False";
}

}  // namespace hessian_mpi::network
