// A policy string as a form: which parameters there are, what they are set to, what is allowed. All of it comes from the
// policies' own descriptions, so a new policy has a form by itself.
//
//   PolicyForm form = PolicyForm::of("snapkv:window=16");
//   for (const PolicyForm::Field& field : form.fields()) show(field.parameter->key, field.value);
//   form.set("pooling", "none");        // fields that mean nothing without pooling are gone from fields()
//   form.text();                        // "snapkv:window=16,pooling=none"
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/policy/policy.h"

namespace kvreplay::gui {

class PolicyForm {
 public:
  struct Field {
    const Parameter* parameter = nullptr;
    std::string value, default_value;
  };

  PolicyForm() = default;
  // Throws Error for a string that is no policy.
  static PolicyForm of(const std::string& policy);

  const PolicyDescription& description() const { return *description_; }
  const std::string& variant() const { return variant_; }
  // Values that were set stay, where the new policy or variant has the key and allows the value.
  void set_policy(const std::string& name);
  void set_variant(const std::string& variant);

  // The parameters that exist with these values, in the order in which they are printed.
  std::vector<Field> fields() const;
  // Any text; whether it is allowed shows in problem(). The default's text removes the key.
  void set(const std::string& key, const std::string& value);
  void reset();

  // Keys of wrappers ("schedule=every:64,merge=pivot"), as typed.
  const std::string& extra() const { return extra_; }
  void set_extra(const std::string& text) { extra_ = text; }

  // Only what differs from the defaults.
  std::string text() const;
  // Why text() is no policy, one line; empty: it is one.
  std::string problem() const;

 private:
  std::map<std::string, std::string> values() const;  // of all fields

  const PolicyDescription* description_ = nullptr;
  std::string variant_;
  std::map<std::string, std::string> given_;
  std::string extra_;
};

}  // namespace kvreplay::gui
