#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <string>

// For tests with ranks that are processes: a length and bytes, over a socket.

namespace braid {

inline void SendBlob(int fd, const std::string& blob) {
  const uint32_t size = static_cast<uint32_t>(blob.size());
  ASSERT_EQ(write(fd, &size, sizeof(size)), static_cast<ssize_t>(sizeof(size)));
  ASSERT_EQ(write(fd, blob.data(), size), static_cast<ssize_t>(size));
}
inline std::string ReceiveBlob(int fd) {
  uint32_t size = 0;
  EXPECT_EQ(recv(fd, &size, sizeof(size), MSG_WAITALL), static_cast<ssize_t>(sizeof(size)));
  std::string blob(size, 0);
  EXPECT_EQ(recv(fd, blob.data(), size, MSG_WAITALL), static_cast<ssize_t>(size));
  return blob;
}

}  // namespace braid
