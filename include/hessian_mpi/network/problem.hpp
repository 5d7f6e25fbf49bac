#pragma once
/// What is differentiated: a model, data and a loss, joined to one function of the parameters. Knows nothing of
/// Hessians.

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hessian_mpi/base/vocabulary.hpp"
#include "hessian_mpi/matrix/parameter_index.hpp"
#include "hessian_mpi/network/data.hpp"
#include "hessian_mpi/network/loss.hpp"
#include "hessian_mpi/network/model.hpp"

namespace hessian_mpi::network {

struct ProblemSettings {
  std::string loss = "cross_entropy";
  Reduction reduction = Reduction::mean;
  Mode mode = Mode::eval;
  std::optional<std::int64_t> batch_size;     ///< samples per forward; all where absent
  std::optional<Precision> precision;         ///< of parameters, data and derivatives; the model's where absent
  std::vector<std::string> patterns = {"*"};  ///< parameters that span the Hessian
  std::uint64_t seed = 0;                     ///< of random layers: the same masks in every forward, on every rank
  std::vector<std::string> loss_options;      ///< of a named loss, each a NAME=VALUE (loss_options.hpp)
  double l2 = 0;                              ///< lambda of the L2 term, not negative
  torch::Device device = torch::kCPU;         ///< of parameters, data and derivatives
  Matrix matrix = Matrix::hessian;            ///< that second derivatives are taken for
  /// Arguments of forward() that are not cut into samples. Where the model computes the loss and there is no
  /// batch_size, all may be whole, and are where their first dimensions differ, or where inputs span the Hessian.
  std::vector<std::string> whole = {};
  /// Names of forward()'s arguments that span the Hessian in the place of parameters, which are held fixed; all
  /// floating-point inputs where there is none; absent: parameters. Not with an L2 term.
  std::optional<std::vector<std::string>> inputs = std::nullopt;
  std::optional<std::filesystem::path> values;  ///< file of a state_dict that takes the place of the model's own
  bool keep_casts = false;  ///< in float64, what the network casts to narrower dtypes is computed so
};

/// What a network returns for some samples, and what the loss takes beside it.
struct BatchOutput {
  c10::IValue value;
  c10::IValue targets;  ///< None, a tensor, or a tuple of several
  std::int64_t samples = 0;
};

/// L(theta) = sum over batches b of loss(b), plus the L2 term, lambda / 2 times the sum of squares of all trainable
/// parameters, which is kept out of loss() and gradient(): in their graph each parameter stays where the network has
/// it. Not collective. The parameters are leaves that are never changed, but for set_parameters(). Where inputs span
/// the Hessian, theta and the parameters below are those inputs, of all samples.
class Problem {
 public:
  /// Converts model and data, selects the parameters, and looks at every batch once where that is needed to weigh it.
  /// Throws InputError: a pattern that matches nothing, no trainable parameter, one whose name cannot be shown or
  /// written, NaN or infinity in it, a dtype that isn't supported, whatever model and loss find wrong with the data, a
  /// loss of the model's or a file's that is not the reduction it is taken for.
  Problem(std::unique_ptr<Model> model, const Data& data, const ProblemSettings& settings);

  const matrix::ParameterIndex& index() const { return index_; }
  /// The parameters that span the Hessian, in the order of index().
  const std::vector<torch::Tensor>& parameters() const { return parameters_; }
  Precision precision() const { return precision_; }
  torch::Device device() const { return device_; }
  Matrix matrix() const { return matrix_; }
  bool by_inputs() const { return by_inputs_; }
  std::int64_t samples() const { return data_.samples(whole_); }
  std::int64_t batch_size() const { return batch_size_; }
  std::int64_t batches() const { return (samples() + batch_size_ - 1) / batch_size_; }
  /// The samples of batch b, of which the last batch may have fewer.
  Rows samples_in(std::int64_t b) const;
  std::string model_format() const { return model_->format(); }
  /// What was done with the file of values that its user may not expect.
  const std::vector<std::string>& notes() const { return notes_; }
  /// The loss; "none" where a Jacobian's data have no targets for it, and the sum of outputs takes its place.
  const std::string& loss_name() const { return loss_name_; }
  /// The loss's options as text_of_loss_options() has them; empty where there are none.
  const std::string& loss_options() const { return loss_options_; }
  /// lambda: what the L2 term adds to the diagonal of H; 0 where there is none.
  double l2() const { return l2_; }
  /// The L2 term's value: of parameters that the patterns leave out, too, so that they do not change L.
  double l2_term() const;
  /// True if the model has convolutions and all of them see one channel at a time, frozen ones included.
  bool convolves_single_channels() const;

  /// The share of batch b in the loss: a scalar connected to the parameters. Not finite or not fitting: InputError.
  /// With copies: the batch is run so many times in one forward, one copy after the other along the first dimension,
  /// and all their shares are added up.
  torch::Tensor loss(std::int64_t b, std::int64_t copies = 1) const;

  /// Derivatives of a batch's share by each parameter, undefined where it does not depend on one. With create_graph
  /// they can be differentiated again.
  std::vector<torch::Tensor> gradient(std::int64_t b, bool create_graph) const;

  /// What the network returns for batch b, connected to the parameters; copies: as loss() has them. Throws InputError
  /// as loss() does, and where the model computes the loss itself.
  BatchOutput output(std::int64_t b, std::int64_t copies = 1) const;
  /// The same for some samples of one batch, which run without the others.
  BatchOutput output_of(const Rows& samples) const;
  /// How many terms the loss of the whole data set has, told by the output of one of its batches; 1 for a sum.
  double terms(const BatchOutput& output, std::int64_t copies = 1) const;
  /// The share of some samples in the loss of a data set with so many terms: a scalar.
  torch::Tensor loss_of(const BatchOutput& output, double terms) const;
  Reduction reduction() const { return reduction_; }

  /// theta as N numbers, and the other way round.
  std::vector<double> flat_parameters() const;
  void set_parameters(const std::vector<double>& theta);

 private:
  BatchOutput run(const Data& on_host, std::int64_t b) const;
  void expect_outputs() const;
  Data copies_of(const Rows& samples, std::int64_t copies) const;
  LossTerm term(std::int64_t b, std::int64_t copies = 1) const;
  double weight_of(const LossTerm& term, double count) const;
  void select_parameters(const ProblemSettings& settings);
  void select_inputs(const std::vector<bool>& chosen);
  void expect_reduction(const ProblemSettings& settings);
  struct Halves;
  std::optional<Halves> halves() const;

  std::unique_ptr<Model> model_;
  Data data_;               ///< on the host
  std::string infinities_;  ///< where data_ holds any: a note for errors
  Loss loss_;
  std::string loss_name_;
  std::string loss_options_;
  double l2_;
  double other_squares_ = 0;  ///< sum of squares of trainable parameters that the patterns leave out
  bool model_computes_loss_;
  Reduction reduction_;
  std::uint64_t seed_;
  std::int64_t batch_size_ = 0;
  Precision precision_ = Precision::float32;
  torch::Device device_;
  Matrix matrix_;
  bool by_inputs_;
  std::optional<double> count_;  ///< terms in the whole data set; absent until known
  std::vector<torch::Tensor> parameters_;
  matrix::ParameterIndex index_;
  Whole whole_;
  std::vector<std::string> notes_;
};

/// Loss and gradient at the problem's parameters, the L2 term among them, batches added up in float64.
struct LossAndGradient {
  double loss = 0;
  std::vector<double> gradient;  ///< N numbers
};
LossAndGradient evaluate(const Problem& problem);

/// For those who add up batches themselves: a batch's share of the loss, and its derivatives by each parameter,
/// undefined where it does not depend on one; then what the L2 term adds to the sum of all.
struct BatchGradient {
  double loss = 0;
  std::vector<torch::Tensor> gradient;
};
BatchGradient loss_and_gradient(const Problem& problem, std::int64_t batch);
void add_l2_term(const Problem& problem, LossAndGradient& sum);

}  // namespace hessian_mpi::network
