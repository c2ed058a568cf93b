#include "model/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>

namespace braid {
namespace {

std::array<TokenId, 256> Bytes() {
  std::array<TokenId, 256> ids;
  for (int byte = 0; byte < 256; ++byte) ids[byte] = byte;
  return ids;
}

// Merges of random pairs of what is there already; a pair may come twice.
std::vector<Bpe::Merge> RandomMerges(std::mt19937& random, int count) {
  std::vector<Bpe::Merge> merges;
  std::vector<TokenId> tokens = {'a', 'b', 'c'};
  for (int i = 0; i < count; ++i) {
    const TokenId left = tokens[random() % tokens.size()], right = tokens[random() % tokens.size()];
    merges.push_back({left, right, 256 + i});
    tokens.push_back(256 + i);
  }
  return merges;
}

// The definition, word for word.
std::vector<TokenId> Merged(const std::vector<Bpe::Merge>& merges, std::string_view word) {
  std::map<std::pair<TokenId, TokenId>, size_t> ranks;
  for (size_t rank = 0; rank < merges.size(); ++rank) ranks[{merges[rank].left, merges[rank].right}] = rank;
  std::vector<TokenId> ids(word.begin(), word.end());
  for (;;) {
    size_t best = merges.size(), at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto rank = ranks.find({ids[i], ids[i + 1]});
      if (rank != ranks.end() && rank->second < best) best = rank->second, at = i;
    }
    if (best == merges.size()) return ids;
    ids[at] = merges[best].result;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(at) + 1);
  }
}

TEST(Bpe, MergesAsTheDefinitionSaysAtAnyLength) {
  std::mt19937 random(1);
  Bpe::Scratch scratch;
  for (int round = 0; round < 40; ++round) {
    const std::vector<Bpe::Merge> merges = RandomMerges(random, 1 + round * 3);
    const Bpe bpe(Bytes(), merges);
    for (size_t size = 1; size <= 150; size += size < 70 ? 1 : 20) {
      std::string word;
      while (word.size() < size) word.push_back("abc"[random() % 3]);
      std::vector<TokenId> ids = {-5};  // what is there stays there
      bpe.Encode(word, &scratch, &ids);
      ASSERT_EQ(ids.front(), -5);
      ids.erase(ids.begin());
      ASSERT_EQ(ids, Merged(merges, word)) << word;
    }
  }
}

}  // namespace
}  // namespace braid
