#pragma once

#include <array>
#include <cstddef>

namespace braid {

// How long a step takes by its number of rows, learnt from the steps as they come. What it is asked for is ratios: what
// does one more row cost? Between one row and thousands the answer differs a hundredfold by model, batch and machine:
// while a step waits for weights from memory rows are nearly free, and later they are not.
//
// A line through knots at powers of two. A step's surprise moves the knots beside it; where steps are common enough to
// be known well, most of it moves all knots, since what slows down one step (longer contexts, a busy machine) slows
// down all. A knot that was not seen for long forgets what it knew, and is taken to be as much slower or faster than
// the best known one as is usual. So a number of rows that did not pay is tried again once in a while: a hundred steps
// or more lie between, which bounds the cost of it. Pure; thread-compatible.
class StepTimes {
 public:
  StepTimes();

  // A step without rows says nothing, nor does a time that is not positive.
  void Add(int rows, double seconds);
  // Only ratios mean something while empty(), before the first Add. REQUIRES: rows >= 1.
  double Seconds(int rows) const;
  bool empty() const { return empty_; }

 private:
  static constexpr size_t kKnots = 13;  // 1 to 4,096 rows; in proportion beyond

  struct Knot {
    double seconds = 1;
    double seen = 0;  // steps of late
  };
  struct Place {
    size_t low = 0;    // the knot at or below
    double share = 0;  // of the next one
  };
  static Place PlaceOf(int rows);
  void Forget();

  std::array<Knot, kKnots> knots_;
  bool empty_ = true;
};

}  // namespace braid
