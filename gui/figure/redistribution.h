// Where attention goes when tokens are evicted: before and after over regions and single tokens, and the two factors of the
// error that this makes.
#pragma once

#include "gui/figure/figure.h"

namespace kvreplay::figure {

// Before and after differ in shape as well as colour: a hollow bar above a filled one. Shares are of all attention.
struct RedistributionChart final : Figure {
  struct Bar {
    std::string name;  // of a region; a token's text, bytes as they are
    double before = 0, after = 0;
    std::string place = {};  // "position 1,023", or empty
    bool evicted = false;    // nothing is left of it
  };
  struct Section {
    std::string title;
    std::vector<Bar> bars;
  };
  std::vector<Section> sections;  // one scale each
  // evicted mass × value displacement ÷ ‖o‖ = relative error of the head's output, exactly.
  struct Factors {
    double evicted_mass = 0, value_displacement = 0, output_norm = 0, error = 0;
  };
  bool has_factors = false;
  Factors factors;

  std::string_view kind() const override { return "redistribution"; }
  Table data() const override;
};

}  // namespace kvreplay::figure
