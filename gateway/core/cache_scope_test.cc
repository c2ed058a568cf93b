#include "gateway/core/cache_scope.h"

#include <gtest/gtest.h>

#include <set>

namespace braid {
namespace {

TEST(CacheScope, KeepsKeysUsersAndSaltsApart) {
  std::set<std::string> scopes;
  for (const char* key : {"", "k", "kk"})
    for (const char* user : {"", "k", "a", "1:a"})
      for (const char* salt : {"", "a", "k"}) scopes.insert(CacheScope(SharePrefixes::kUser, key, user, salt));
  EXPECT_EQ(scopes.size(), 3u * 4 * 3);
  EXPECT_EQ(CacheScope(SharePrefixes::kUser, "k", "a", "s"), CacheScope(SharePrefixes::kUser, "k", "a", "s"));
}

TEST(CacheScope, IsTheSameForAllWhereAllShareButForThoseWhoWantToBeApart) {
  EXPECT_EQ(CacheScope(SharePrefixes::kAll, "k", "a", ""), CacheScope(SharePrefixes::kAll, "", "b", ""));
  EXPECT_EQ(CacheScope(SharePrefixes::kAll, "k", "a", "s"), CacheScope(SharePrefixes::kAll, "", "b", "s"));
  EXPECT_NE(CacheScope(SharePrefixes::kAll, "k", "a", "s"), CacheScope(SharePrefixes::kAll, "k", "a", ""));
}

TEST(CacheScope, FitsTheRouterAndHidesTheKey) {
  const std::string scope = CacheScope(SharePrefixes::kUser, "secret", std::string(10000, 'x'), "");
  EXPECT_LE(scope.size(), 128u);
  EXPECT_EQ(scope.find("secret"), std::string::npos);
}

TEST(SharePrefixes, AreReadFromTheirNames) {
  EXPECT_EQ(ParseSharePrefixes("user"), SharePrefixes::kUser);
  EXPECT_EQ(ParseSharePrefixes("all"), SharePrefixes::kAll);
  EXPECT_EQ(ParseSharePrefixes("none"), SharePrefixes::kNone);
  EXPECT_EQ(ParseSharePrefixes("some"), std::nullopt);
}

}  // namespace
}  // namespace braid
