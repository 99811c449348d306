#include "gui/model/policy_form.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/policy/wrappers/wrapper.h"

namespace kvreplay::gui {
namespace {

bool is_own(const PolicyDescription& policy, const std::string& variant, const std::string& key) {
  return std::any_of(policy.parameters.begin(), policy.parameters.end(), [&](const Parameter& parameter) {
    return parameter.key == key && parameter.defaults.count(variant) != 0;
  });
}

}  // namespace

PolicyForm PolicyForm::of(const std::string& policy) {
  const PolicySpec spec = parse_policy(policy);
  PolicyForm form;
  form.description_ = spec.description;
  form.variant_ = spec.variant;
  std::vector<std::string> extra;
  for (const std::string& key : spec.given) {
    if (is_own(*spec.description, spec.variant, key))
      form.set(key, spec.values.text(key));
    else
      extra.push_back(key + "=" + spec.values.text(key));
  }
  form.extra_ = join(extra, ",");
  return form;
}

void PolicyForm::set_policy(const std::string& name) {
  description_ = &find_policy(name);
  set_variant(description_->variants.front().name);
}

void PolicyForm::set_variant(const std::string& variant) {
  variant_ = variant;
  std::erase_if(given_, [this](const auto& entry) {
    return std::none_of(description_->parameters.begin(), description_->parameters.end(), [&](const Parameter& parameter) {
      if (parameter.key != entry.first || parameter.defaults.count(variant_) == 0) return false;
      try {
        parameter.check("", entry.second);
        return true;
      } catch (const Error&) {
        return false;
      }
    });
  });
}

std::map<std::string, std::string> PolicyForm::values() const {
  std::map<std::string, std::string> values;
  for (const Parameter& parameter : description_->parameters) {
    if (!parameter.applies(variant_, values)) continue;
    const auto given = given_.find(parameter.key);
    values[parameter.key] = given == given_.end() ? parameter.defaults.at(variant_) : given->second;
  }
  return values;
}

std::vector<PolicyForm::Field> PolicyForm::fields() const {
  const auto values = this->values();
  std::vector<Field> fields;
  for (const Parameter& parameter : description_->parameters)
    if (parameter.applies(variant_, values))
      fields.push_back({&parameter, values.at(parameter.key), parameter.defaults.at(variant_)});
  return fields;
}

void PolicyForm::set(const std::string& key, const std::string& value) {
  given_[key] = value;
  for (const Field& field : fields())
    if (field.parameter->key == key && field.default_value == value) given_.erase(key);
}

void PolicyForm::reset() {
  given_.clear();
  extra_.clear();
}

std::string PolicyForm::text() const {
  std::string text = description_->name;
  if (variant_ != description_->variants.front().name) text += "@" + variant_;
  char separator = ':';
  for (const Field& field : fields()) {
    if (given_.count(field.parameter->key) == 0) continue;
    text += separator + field.parameter->key + "=" + field.value;
    separator = ',';
  }
  if (!extra_.empty()) text += separator + extra_;
  return text;
}

std::string PolicyForm::problem() const {
  try {
    parse_policy(text());
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace kvreplay::gui
