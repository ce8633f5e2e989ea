// Uses what an installed package ships, and nothing else: both sides of Āpta in one program.
#include <apta/apta.h>
#include <unistd.h>

#include <cstdio>
#include <string>

int main(int, char** argv) {
  apta::ServerOptions options;
  options.socket = std::string(argv[1]) + "/consumer.sock";
  options.pools[0].bytes = 16 << 20;
  const auto server = apta::MemoryServer::Start(options);
  if (!server.ok()) return std::puts(server.status().ToString().c_str()), 1;
  auto client = apta::Client::Connect({.socket = server->socket()});
  if (!client.ok()) return std::puts(client.status().ToString().c_str()), 1;
  const auto version = client->Put("greeting", apta::AsBytes("hello from outside"));
  const auto object = client->Get("greeting");
  if (!version.ok() || !object.ok() || object->version() != *version) return 1;
  std::printf("%.*s\n", static_cast<int>(object->size()), apta::AsText(object->bytes()).data());
  return 0;
}
