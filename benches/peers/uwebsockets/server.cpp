// A broadcast server on uWebSockets, as its manual shows it: a topic per channel, and `publish` to
// it. It speaks what the load generator needs of the Foony protocol's binary records (auth, sub,
// pub, ping), so that every WebSocket server is measured with the same bytes. One thread, epoll.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <unordered_map>

#include "App.h"

namespace {

enum Opcode : uint8_t {
    AUTH = 1, SUBSCRIBE = 2, PUBLISH = 4, PING = 10, CONNECTED = 11, ACK = 12, DELIVERY = 13, PONG = 16
};

// Above it uWebSockets drops what is published without a word.
constexpr unsigned BACKPRESSURE_BYTES_MAX = 512 * 1024 * 1024;
constexpr unsigned MESSAGE_BYTES_MAX = 16 * 1024 * 1024;

struct Session {};
using Socket = uWS::WebSocket<false, true, Session>;

std::unordered_map<std::string, uint64_t> serials;

// Reads from the front of some bytes; `ok` turns false at the first one that is missing.
struct Reader {
    std::string_view bytes;
    bool ok = true;

    uint64_t number() {
        uint64_t value = 0;
        for (unsigned shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
            uint8_t byte = static_cast<uint8_t>(bytes.front());
            bytes.remove_prefix(1);
            value |= static_cast<uint64_t>(byte & 127) << shift;
            if (!(byte & 128)) return value;
        }
        ok = false;
        return 0;
    }

    std::string_view field() {
        uint64_t length = number();
        if (!ok || length > bytes.size()) {
            ok = false;
            return {};
        }
        std::string_view field = bytes.substr(0, length);
        bytes.remove_prefix(length);
        return field;
    }
};

void append_number(std::string &out, uint64_t value) {
    for (; value >= 128; value >>= 7) out.push_back(static_cast<char>(value | 128));
    out.push_back(static_cast<char>(value));
}

// A record, or a field: its length first.
void append_record(std::string &out, std::string_view bytes) {
    append_number(out, bytes.size());
    out.append(bytes);
}

void append_ack(std::string &out, uint64_t id, uint64_t serial) {
    std::string body{static_cast<char>(ACK), '\0'};
    append_number(body, id);
    append_number(body, serial);
    append_record(out, body);
}

uint64_t publish(uWS::App &app, Reader &request) {
    std::string_view channel = request.field(), name = request.field(), data = request.field();
    std::string_view encoding = request.field(), message_id = request.field();
    request.number(); // reserved
    // SDKs publish a batch of one, beside which the other fields mean nothing.
    if (request.number() == 1) {
        name = request.field(), data = request.field(), encoding = request.field();
    }
    if (!request.ok) return 0;
    uint64_t serial = ++serials[std::string(channel)];
    auto since = std::chrono::system_clock::now().time_since_epoch();
    std::string body{static_cast<char>(DELIVERY), '\1', '\0'};
    append_number(body, std::chrono::duration_cast<std::chrono::milliseconds>(since).count());
    for (std::string_view field : {channel, name, data, message_id, std::string_view("p"), encoding}) {
        append_record(body, field);
    }
    append_number(body, serial);
    std::string record;
    append_record(record, body);
    app.publish(channel, record, uWS::OpCode::BINARY);
    return serial;
}

bool carry_out(uWS::App &app, Socket *socket, Reader request, std::string &answers) {
    if (request.bytes.empty()) return false;
    uint8_t opcode = static_cast<uint8_t>(request.bytes.front());
    request.bytes.remove_prefix(1);
    if (opcode == AUTH) {
        append_record(answers, std::string_view("\x0b\1c\x98\x75\1s", 7));
    } else if (opcode == PING) {
        append_record(answers, std::string_view("\x10", 1));
    } else if (opcode == SUBSCRIBE) {
        uint64_t id = request.number();
        request.number(); // cursor
        socket->subscribe(request.field());
        append_ack(answers, id, 0);
    } else if (opcode == PUBLISH && !request.bytes.empty()) {
        request.bytes.remove_prefix(1); // flags
        uint64_t id = request.number();
        append_ack(answers, id, publish(app, request));
    } else {
        return false;
    }
    return request.ok;
}

} // namespace

int main() {
    uWS::App app;
    app.ws<Session>("/*", {
        .maxPayloadLength = MESSAGE_BYTES_MAX,
        .idleTimeout = 0,
        .maxBackpressure = BACKPRESSURE_BYTES_MAX,
        .sendPingsAutomatically = false,
        .message = [&app](Socket *socket, std::string_view message, uWS::OpCode) {
            Reader records{message};
            std::string answers;
            while (!records.bytes.empty()) {
                std::string_view record = records.field();
                if (!records.ok || !carry_out(app, socket, Reader{record}, answers)) {
                    socket->close();
                    return;
                }
            }
            socket->send(answers, uWS::OpCode::BINARY);
        },
    });
    app.listen("127.0.0.1", 0, [](us_listen_socket_t *listener) {
        if (!listener) {
            std::fputs("error: cannot listen\n", stderr);
            std::exit(1);
        }
        int port = us_socket_local_port(0, reinterpret_cast<us_socket_t *>(listener));
        std::printf("ready http=127.0.0.1:%d\n", port);
        std::fflush(stdout);
    });
    app.run();
}
