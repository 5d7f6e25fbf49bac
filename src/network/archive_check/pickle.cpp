#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <caffe2/serialize/inline_container.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "archive_check.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/printable.hpp"

namespace hessian_mpi::network {

void damaged(const std::string& how) {
  throw InputError("is damaged: " + how);
}

namespace {

constexpr std::size_t deepest_nesting = 200;

/// What stands on the stack of the pickle's machine: containers share what they hold.
using Object = PickledObject;

/// Whether LibTorch is to read the pickle, which makes what it says, or it is looked into alone.
enum class Purpose { for_libtorch, to_look_into };

/// The machine of Python's pickle module, protocol 2, with the operations that PyTorch writes.
class PickleMachine {
 public:
  PickleMachine(std::string_view bytes, caffe2::serialize::PyTorchStreamReader& archive, std::string folder,
                Purpose purpose)
      : bytes_(bytes), archive_(archive), folder_(std::move(folder)), looks_into_(purpose == Purpose::to_look_into) {}

  PickledObjects run();

 private:
  using Number = std::uint32_t;  // of an object

  std::string_view take(std::size_t count);
  std::uint64_t unsigned_number(std::size_t width);
  std::string_view line();

  void push(Object object);
  void push_number(std::int64_t value) { push({Object::Kind::integer, value, {}, {}}); }
  Number pop();
  std::vector<Number> pop_many(std::size_t count);
  std::vector<Number> pop_to_mark();
  Object& container(Object::Kind kind);

  // Each true where it was an operation of its kind, which is then done.
  bool do_constant(char operation);
  bool do_container(char operation);
  void step(char operation);
  void make(Object::Kind kind, std::vector<Number> parts);
  void append(Object::Kind kind, const std::vector<Number>& parts);
  void remember(std::uint64_t place);
  void recall(std::uint64_t place);
  void push_text(std::string_view value);
  void push_global();
  void push_long();
  void call();
  void make_object();
  void set_state();
  void push_storage();
  void check_nesting() const;

  std::string_view bytes_;
  caffe2::serialize::PyTorchStreamReader& archive_;
  std::string folder_;
  bool looks_into_;
  std::size_t at_ = 0;
  std::vector<Object> objects_;
  std::vector<Number> stack_;
  std::vector<std::size_t> marks_;
  std::vector<Number> memo_;
};

std::string_view PickleMachine::take(std::size_t count) {
  if (count > bytes_.size() - at_) damaged("a pickle in it ends early");
  at_ += count;
  return bytes_.substr(at_ - count, count);
}

std::uint64_t PickleMachine::unsigned_number(std::size_t width) {
  const std::string_view digits = take(width);
  std::uint64_t value = 0;
  for (std::size_t k = width; k > 0; --k) value = (value << 8) | static_cast<unsigned char>(digits[k - 1]);
  return value;
}

std::string_view PickleMachine::line() {
  const std::size_t end = bytes_.find('\n', at_);
  if (end == std::string_view::npos) damaged("a pickle in it ends early");
  const std::string_view found = bytes_.substr(at_, end - at_);
  at_ = end + 1;
  return found;
}

void PickleMachine::push(Object object) {
  stack_.push_back(static_cast<Number>(objects_.size()));
  objects_.push_back(std::move(object));
}

PickleMachine::Number PickleMachine::pop() {
  if (stack_.empty() || (!marks_.empty() && stack_.size() <= marks_.back()))
    damaged("a pickle in it takes what it never put there");
  const Number top = stack_.back();
  stack_.pop_back();
  return top;
}

std::vector<PickleMachine::Number> PickleMachine::pop_many(std::size_t count) {
  std::vector<Number> parts(count);
  std::generate(parts.rbegin(), parts.rend(), [this] { return pop(); });
  return parts;
}

std::vector<PickleMachine::Number> PickleMachine::pop_to_mark() {
  if (marks_.empty()) damaged("a pickle in it takes what it never put there");
  const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<Number> parts(begin, stack_.end());
  stack_.erase(begin, stack_.end());
  marks_.pop_back();
  return parts;
}

Object& PickleMachine::container(Object::Kind kind) {
  const bool there = !stack_.empty() && (marks_.empty() || stack_.size() > marks_.back());
  Object* const top = there ? &objects_[stack_.back()] : nullptr;
  const bool some_object = looks_into_ && there && top->kind == Object::Kind::object;
  if (top == nullptr || !(top->kind == kind || some_object)) damaged("a pickle in it fills what is no container");
  return *top;
}

void PickleMachine::make(Object::Kind kind, std::vector<Number> parts) {
  push({kind, 0, {}, std::move(parts)});
}

void PickleMachine::append(Object::Kind kind, const std::vector<Number>& parts) {
  if (kind == Object::Kind::dict && parts.size() % 2 != 0) damaged("a pickle in it has a key without a value");
  Object& whole = container(kind);
  whole.parts.insert(whole.parts.end(), parts.begin(), parts.end());
}

// Places are given out one after the other: a far one would ask for memory up to there.
void PickleMachine::remember(std::uint64_t place) {
  if (stack_.empty() || place > memo_.size()) damaged("a pickle in it remembers what it does not have");
  if (place == memo_.size()) memo_.push_back(0);
  memo_[place] = stack_.back();
}

void PickleMachine::recall(std::uint64_t place) {
  if (place >= memo_.size()) damaged("a pickle in it recalls what it never remembered");
  stack_.push_back(memo_[place]);
}

// Some of them name types, which LibTorch parses by calling itself for every bracket.
void PickleMachine::push_text(std::string_view value) {
  if (static_cast<std::size_t>(std::count(value.begin(), value.end(), '[')) > deepest_nesting) {
    damaged("a text in a pickle opens too many brackets");
  }
  push({Object::Kind::text, 0, std::string(value), {}});
}

void PickleMachine::push_global() {
  const std::string_view module = line(), name = line();
  const auto refuse = [&](const char* why) {
    if (!looks_into_) throw InputError(text("holds an object of ", printable(text(module, ".", name)), ", ", why));
  };
  if (module.find("torch.classes") != std::string_view::npos) {
    refuse("which is made by code outside of the tensor library");
  }
  if (module.starts_with("torch.distributed")) refuse("which belongs to another process");
  if (!looks_into_ && name == "_rebuild_qtensor") {
    throw InputError("holds a quantized tensor, through which no derivative is taken");
  }
  push({Object::Kind::global, 0, text(module, " ", name), {}});
}

// In as many bytes as it takes, with its sign; LibTorch reads those of eight alone.
void PickleMachine::push_long() {
  const auto width = unsigned_number(1);
  if (!looks_into_ && width != 8) damaged("a pickle in it has a number that is not of 64 bits");
  if (width > 8) {
    take(width);
    return push({});
  }
  auto value = unsigned_number(width);
  const auto bits = 8 * width;
  if (bits > 0 && bits < 64 && (value >> (bits - 1)) != 0) value |= ~std::uint64_t{0} << bits;
  push_number(static_cast<std::int64_t>(value));
}

// A class that is made and then given its state, or a function and its arguments.
void PickleMachine::call() {
  const Number argument = pop(), callee = pop();
  if (!looks_into_ && objects_[callee].kind != Object::Kind::global)
    damaged("a pickle in it calls what is no function");
  // Lists and dicts with their types: the list itself is what comes of it.
  const bool is_dict = looks_into_ && objects_[callee].text == "collections OrderedDict";
  if (is_dict) return make(Object::Kind::dict, {});
  make(Object::Kind::object, {callee, argument});
}

// Of the class, which gets its state later.
void PickleMachine::make_object() {
  const Number arguments = pop();  // an empty tuple, where LibTorch reads it
  const Number its_class = pop();
  if (objects_[its_class].kind != Object::Kind::global) damaged("a pickle in it makes an object of what is no class");
  if (!looks_into_) return stack_.push_back(its_class);
  make(Object::Kind::object, {its_class, arguments});
}

// Of a dict it is what a state_dict says about its modules.
void PickleMachine::set_state() {
  if (!looks_into_) return call();
  pop();
  stack_.push_back(pop());
}

}  // namespace

std::int64_t bytes_of_element(const std::string& storage) {
  static constexpr std::pair<std::string_view, std::int64_t> sizes[] = {
      {"torch DoubleStorage", 8},     {"torch FloatStorage", 4},        {"torch HalfStorage", 2},
      {"torch BFloat16Storage", 2},   {"torch LongStorage", 8},         {"torch IntStorage", 4},
      {"torch ShortStorage", 2},      {"torch CharStorage", 1},         {"torch ByteStorage", 1},
      {"torch BoolStorage", 1},       {"torch ComplexFloatStorage", 8}, {"torch ComplexDoubleStorage", 16},
      {"torch ComplexHalfStorage", 4}};
  for (const auto& [name, size] : sizes) {
    if (name == storage) return size;
  }
  return 0;
}

namespace {

// ('storage', torch.FloatStorage, KEY, 'cpu', NUMBER OF ELEMENTS): LibTorch takes the number as it stands.
void PickleMachine::push_storage() {
  constexpr std::array kinds = {Object::Kind::text, Object::Kind::global, Object::Kind::text, Object::Kind::text,
                                Object::Kind::integer};
  const auto& parts = objects_[pop()].parts;
  const bool known = parts.size() == kinds.size() &&
                     std::equal(parts.begin(), parts.end(), kinds.begin(),
                                [&](Number part, Object::Kind kind) { return objects_[part].kind == kind; }) &&
                     objects_[parts[0]].text == "storage";
  if (!known) damaged("a pickle in it refers to something that is no tensor's storage");
  const std::int64_t elements = objects_[parts[4]].number, size = bytes_of_element(objects_[parts[1]].text);
  if (size == 0 && looks_into_) return push({});
  if (size == 0) {
    throw InputError(text("holds a tensor of a kind that is not supported (", printable(objects_[parts[1]].text), ")"));
  }
  const std::string record = folder_ + "/" + objects_[parts[2]].text;
  if (elements < 0) damaged(text("a tensor of ", elements, " elements"));
  if (elements > 0) {
    if (!archive_.hasRecord(record)) damaged(text("the archive has no ", printable(record)));
    const std::uint64_t stored = archive_.getRecordSize(record);
    if (static_cast<std::uint64_t>(elements) > stored / static_cast<std::uint64_t>(size)) {
      damaged(text("a tensor is declared to have ", elements, " elements of ", size, " bytes, and ", printable(record),
                   " has ", stored, " bytes"));
    }
  }
  make(Object::Kind::storage, std::vector<Number>(parts));
}

bool PickleMachine::do_constant(char operation) {
  switch (operation) {
    case 'N':
    case '\x88':
    case '\x89':
      push({});
      return true;
    case 'G':
      take(8);
      push({});
      return true;
    case 'K':
      push_number(static_cast<std::int64_t>(unsigned_number(1)));
      return true;
    case 'M':
      push_number(static_cast<std::int64_t>(unsigned_number(2)));
      return true;
    case 'J':
      push_number(static_cast<std::int32_t>(unsigned_number(4)));
      return true;
    case '\x8a':
      push_long();
      return true;
    case 'U':
      if (!looks_into_) return false;
      push_text(take(unsigned_number(1)));
      return true;
    case 'X':
      push_text(take(unsigned_number(4)));
      return true;
    default:
      return false;
  }
}

bool PickleMachine::do_container(char operation) {
  using Kind = Object::Kind;
  switch (operation) {
    case ']':
      make(Kind::list, {});
      return true;
    case ')':
      make(Kind::tuple, {});
      return true;
    case '}':
      make(Kind::dict, {});
      return true;
    case 't':
      make(Kind::tuple, pop_to_mark());
      return true;
    case '\x85':
    case '\x86':
    case '\x87':
      make(Kind::tuple, pop_many(static_cast<std::size_t>(operation - '\x85') + 1));
      return true;
    case 'a':
      append(Kind::list, pop_many(1));
      return true;
    case 'e':
      append(Kind::list, pop_to_mark());
      return true;
    case 's':
      append(Kind::dict, pop_many(2));
      return true;
    case 'u':
      append(Kind::dict, pop_to_mark());
      return true;
    default:
      return false;
  }
}

void PickleMachine::step(char operation) {
  if (do_constant(operation) || do_container(operation)) return;
  switch (operation) {
    case '(':
      return marks_.push_back(stack_.size());
    case 'q':
      return remember(unsigned_number(1));
    case 'r':
      return remember(unsigned_number(4));
    case 'h':
      return recall(unsigned_number(1));
    case 'j':
      return recall(unsigned_number(4));
    case 'c':
      return push_global();
    case '\x81':
      return make_object();
    case 'R':
      return call();
    case 'b':
      return set_state();
    case 'Q':
      return push_storage();
    default:
      throw InputError(text("holds an object that only Python can read (pickle operation ",
                            static_cast<int>(static_cast<unsigned char>(operation)), ")"));
  }
}

// Depth first, without recursion: LibTorch walks through what it read by recursion.
void PickleMachine::check_nesting() const {
  enum class State : char { fresh, open, closed };
  std::vector<State> states(objects_.size(), State::fresh);
  std::vector<std::size_t> depths(objects_.size(), 0);
  std::vector<std::pair<Number, std::size_t>> path;  // an object and how many of its parts were seen
  for (Number root = 0; root < objects_.size(); ++root) {
    if (states[root] == State::fresh) path.emplace_back(root, 0);
    while (!path.empty()) {
      auto& [object, seen] = path.back();
      states[object] = State::open;
      if (seen < objects_[object].parts.size()) {
        const Number part = objects_[object].parts[seen++];
        if (states[part] == State::open) damaged("a pickle in it has a container that holds itself");
        if (states[part] == State::fresh) path.emplace_back(part, 0);
        continue;
      }
      for (const Number part : objects_[object].parts) depths[object] = std::max(depths[object], depths[part] + 1);
      if (depths[object] > deepest_nesting * 3) damaged("a pickle in it nests too deeply");
      states[object] = State::closed;
      path.pop_back();
    }
  }
}

PickledObjects PickleMachine::run() {
  constexpr std::string_view protocol_2 = "\x80\x02";
  if (take(2) != protocol_2) damaged("a pickle in it is not of protocol 2");
  while (true) {
    const char operation = take(1).front();
    if (operation == '.') break;
    step(operation);
  }
  if (stack_.size() != 1) damaged("a pickle in it does not come to one object");
  if (!looks_into_) check_nesting();
  return {std::move(objects_), stack_.front()};
}

}  // namespace

void check_pickle(caffe2::serialize::PyTorchStreamReader& archive, const std::string& record,
                  const std::string& folder) {
  const auto [bytes, size] = archive.getRecord(record);
  PickleMachine({static_cast<const char*>(bytes.get()), size}, archive, folder, Purpose::for_libtorch).run();
}

PickledObjects pickled_objects(caffe2::serialize::PyTorchStreamReader& archive, const std::string& record,
                               const std::string& folder) {
  const auto [bytes, size] = archive.getRecord(record);
  return PickleMachine({static_cast<const char*>(bytes.get()), size}, archive, folder, Purpose::to_look_into).run();
}

bool lies_in_its_storage(const at::Tensor& tensor) {
  if (tensor.storage_offset() < 0) return false;
  for (std::int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) < 0 || tensor.stride(d) < 0) return false;
  }
  return at::detail::computeStorageNbytes(tensor.sizes(), tensor.strides(), tensor.itemsize(),
                                          static_cast<std::size_t>(tensor.storage_offset())) <=
         tensor.storage().nbytes();
}

}  // namespace hessian_mpi::network
