#pragma once
/// Constructs of Python that run parts of an exported program as graphs of their own (torch.ops.higher_order): blocks
/// under torch.no_grad() or autocast, torch.cond, while_loop, map, scan. Internal to exported_program.

#include <ATen/core/ivalue.h>

#include <functional>
#include <memory>
#include <string_view>
#include <variant>
#include <vector>

namespace hessian_mpi::network {

struct Graph;

using Values = std::vector<c10::IValue>;
/// Runs a graph on inputs of its own.
using RunGraph = std::function<Values(const Graph&, Values)>;
/// What a construct is called with: a value, a list of them, or a graph.
using RegionArgument = std::variant<c10::IValue, Values, std::shared_ptr<const Graph>>;

/// A construct and the arguments it takes, a letter for each: v a value, l a list of values, g a graph; * ends it with
/// any number of values. It does step by step what Python would, so derivatives of any order go through it. Throws
/// std::invalid_argument where a value is not what it should be.
struct Region {
  std::string_view name;
  std::string_view takes;
  Values (*run)(const std::vector<RegionArgument>& arguments, const RunGraph& run_graph);
};

/// The construct for a target such as "torch.ops.higher_order.cond"; nullptr if there is none.
const Region* find_region(std::string_view target);

}  // namespace hessian_mpi::network
