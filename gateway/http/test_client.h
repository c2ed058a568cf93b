#pragma once

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <string_view>

// For tests: a client that sends any bytes, well-formed or not, and reads what comes back.

namespace braid {

struct TestResponse {
  int status = 0;  // 0: the connection ended instead
  std::string head, body;
};

class TestClient {
 public:
  explicit TestClient(int port, int receive_buffer = 0) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const timeval timeout = {.tv_sec = 20};  // a test that hangs fails instead
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    const int on = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (receive_buffer > 0) setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(static_cast<uint16_t>(port))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~TestClient() { close(fd_); }
  TestClient(const TestClient&) = delete;

  bool connected() const { return connected_; }

  // False once the server has closed the connection.
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(n);
    }
    return true;
  }

  void CloseWrite() { shutdown(fd_, SHUT_WR); }
  // Leaves without a word: the server sees a reset.
  void Reset() {
    const linger none = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
    close(fd_);
    fd_ = -1;
  }

  // Everything up to and including `marker`; all there was if the connection ended before.
  std::string ReadUntil(std::string_view marker) {
    size_t found;
    while ((found = input_.find(marker)) == input_.npos) {
      if (!Fill()) return Take(input_.size());
    }
    return Take(found + marker.size());
  }

  std::string ReadToEnd() {
    while (Fill()) {
    }
    return Take(input_.size());
  }

  // With its body, by Content-Length or until the last chunk. Interim responses come alone.
  TestResponse ReadResponse(bool head_only = false) {
    TestResponse response;
    response.head = ReadUntil("\r\n\r\n");
    if (!response.head.starts_with("HTTP/1.")) return response;
    response.status = std::atoi(response.head.c_str() + 9);
    if (head_only) return response;
    if (response.head.find("chunked") != std::string::npos) {
      response.body = Unchunked(ReadUntil("0\r\n\r\n"));
    } else if (const size_t at = response.head.find("Content-Length: "); at != std::string::npos) {
      response.body = ReadBytes(std::strtoul(response.head.c_str() + at + 16, nullptr, 10));
    }
    return response;
  }

  static std::string Unchunked(std::string_view chunks) {
    std::string out;
    while (!chunks.empty()) {
      const size_t eol = chunks.find("\r\n");
      if (eol == chunks.npos) break;
      const size_t bytes = std::strtoul(std::string(chunks.substr(0, eol)).c_str(), nullptr, 16);
      out += chunks.substr(eol + 2, bytes);
      chunks.remove_prefix(std::min(chunks.size(), eol + 2 + bytes + 2));
    }
    return out;
  }

 private:
  bool Fill() {
    char bytes[16384];
    const ssize_t n = recv(fd_, bytes, sizeof(bytes), 0);
    if (n <= 0) return false;
    input_.append(bytes, n);
    return true;
  }
  std::string ReadBytes(size_t n) {
    while (input_.size() < n && Fill()) {
    }
    return Take(std::min(n, input_.size()));
  }
  std::string Take(size_t n) {
    std::string out = input_.substr(0, n);
    input_.erase(0, n);
    return out;
  }

  int fd_;
  bool connected_ = false;
  std::string input_;
};

}  // namespace braid
