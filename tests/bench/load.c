/* A load generator: many WebSocket clients that send chunks at real-time pace, from one thread.
 *
 * The messages of all connections are spread evenly over the interval, as those of independent microphones are. A
 * latency counts from the moment at which a message was due, so that a server, or a generator, that is late does not
 * hide it. A crowd opens further connections at one moment, and may close its sessions at another. Clients continue the
 * sessions of a file, if there is one with an id in each line. The result is one JSON object. Times are in seconds inside, in milliseconds outside.
 *
 * It speaks just enough of RFC 6455. Frames are masked with a zero key, which leaves the payload as it is.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { QUEUE = 1024, BUFFER = 65536, OPENING_AT_ONCE = 32, ID = 36 };
enum state { UNUSED, CONNECTING, UPGRADING, GREETING, OPEN, ENDED };

struct client {
    int handle, is_crowd;
    enum state state;
    double began, greeted;
    /* Messages that were due and have no answer yet, as a ring of the times at which they were due. */
    double due[QUEUE];
    unsigned first, count;
    /* Messages that are due and not yet written, and how much of the first of them is. */
    unsigned unwritten;
    size_t written;
    /* The frame that is being read: its header so far, and how much of its payload is left. */
    unsigned char head[14];
    size_t head_bytes, left;
    char reply[512];
    size_t reply_bytes;
};

static struct client *clients;
static unsigned char *frame;
static size_t frame_bytes;
static const char *path;
static char (*sessions)[ID + 2];
static size_t session_count;
static int poller, port;
static float *latencies, *crowd_latencies;
static size_t latency_count, crowd_latency_count, latency_limit;
static double measure_from, crowd_from, crowd_until, close_from, close_until;
static long sent, answered, rejected, crowd_greeted, crowd_closed;

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void watch(struct client *client, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = client};
    if (epoll_ctl(poller, operation, client->handle, &event) < 0)
        die("epoll_ctl");
}

static void end(struct client *client) {
    if (client->state == ENDED)
        return;
    if (client->state < OPEN)
        rejected++;
    client->state = ENDED;
    close(client->handle);
}

static void begin(struct client *client, int is_crowd) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    client->handle = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (client->handle < 0)
        die("socket");
    setsockopt(client->handle, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    client->is_crowd = is_crowd;
    client->began = now();
    client->state = CONNECTING;
    if (connect(client->handle, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        die("connect");
    watch(client, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

static int request(const struct client *client) {
    char text[2048];
    size_t place = client - clients, base = strcspn(path, "?");
    int is_known = place < session_count;
    int size = snprintf(text, sizeof text,
                        "GET %.*s%s%.*s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                        "Sec-WebSocket-Version: 13\r\n\r\n",
                        (int)base, path, is_known ? "/" : "", is_known ? ID : 0, is_known ? sessions[place] : "",
                        path + base, port);
    return send(client->handle, text, size, MSG_NOSIGNAL) == size;
}

static void flush(struct client *client) {
    while (client->unwritten) {
        ssize_t size = send(client->handle, frame + client->written, frame_bytes - client->written, MSG_NOSIGNAL);
        if (size < 0) {
            if (errno != EAGAIN)
                end(client);
            else
                watch(client, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        client->written += size;
        if (client->written == frame_bytes) {
            client->written = 0;
            client->unwritten--;
        }
    }
}

static void is_due(struct client *client, double at) {
    if (client->state != OPEN || client->count == QUEUE)
        return;
    client->due[(client->first + client->count++) % QUEUE] = at;
    sent += at >= measure_from;
    if (client->unwritten++ == 0)
        flush(client);
}

static void note(double due, double at) {
    if (due < measure_from)
        return;
    answered++;
    if (latency_count < latency_limit)
        latencies[latency_count++] = at - due;
    if (((crowd_from > 0 && due >= crowd_from && (crowd_until == 0 || due < crowd_until)) ||
         (close_from > 0 && due >= close_from && (close_until == 0 || due < close_until))) &&
        crowd_latency_count < latency_limit)
        crowd_latencies[crowd_latency_count++] = at - due;
}

static void frame_read(struct client *client, int opcode, double at) {
    if (opcode == 9) {
        static const unsigned char pong[] = {0x8a, 0x80, 0, 0, 0, 0};
        send(client->handle, pong, sizeof pong, MSG_NOSIGNAL);
    } else if (opcode == 8) {
        crowd_closed += client->is_crowd;
        end(client);
    } else if (client->state == GREETING) {
        client->state = OPEN;
        client->greeted = at;
        crowd_greeted += client->is_crowd;
    } else if (client->count) {
        note(client->due[client->first], at);
        client->first = (client->first + 1) % QUEUE;
        client->count--;
    }
}

static size_t header_bytes(const struct client *client) {
    if (client->head_bytes < 2)
        return 2;
    size_t length = client->head[1] & 0x7f;
    return length < 126 ? 2 : length == 126 ? 4 : 10;
}

static void take(struct client *client, const unsigned char *data, size_t size, double at) {
    while (size && client->state != ENDED) {
        if (client->left) {
            size_t step = size < client->left ? size : client->left;
            data += step, size -= step, client->left -= step;
        } else {
            client->head[client->head_bytes++] = *data++, size--;
            if (client->head_bytes < header_bytes(client))
                continue;
            size_t length = client->head[1] & 0x7f;
            if (length == 126)
                length = client->head[2] << 8 | client->head[3];
            else if (length == 127)
                length = (size_t)client->head[6] << 24 | client->head[7] << 16 | client->head[8] << 8 | client->head[9];
            client->left = length;
        }
        if (client->head_bytes && client->head_bytes == header_bytes(client) && !client->left) {
            client->head_bytes = 0;
            frame_read(client, client->head[0] & 15, at);
        }
    }
}

static void upgrade(struct client *client, const unsigned char *data, size_t size, double at) {
    size_t room = sizeof client->reply - 1 - client->reply_bytes, step = size < room ? size : room;
    memcpy(client->reply + client->reply_bytes, data, step);
    client->reply[client->reply_bytes + step] = 0;
    char *last = strstr(client->reply, "\r\n\r\n");
    if (!last) {
        client->reply_bytes += step;
        if (step == room)
            end(client);
        return;
    }
    if (strncmp(client->reply, "HTTP/1.1 101", 12)) {
        end(client);
        return;
    }
    size_t used = last + 4 - client->reply - client->reply_bytes;
    client->state = GREETING;
    take(client, data + used, size - used, at);
}

static void receive(struct client *client) {
    static unsigned char buffer[BUFFER];
    ssize_t size = recv(client->handle, buffer, sizeof buffer, 0);
    if (size <= 0) {
        if (size == 0 || errno != EAGAIN)
            end(client);
        return;
    }
    double at = now();
    if (client->state == UPGRADING)
        upgrade(client, buffer, size, at);
    else
        take(client, buffer, size, at);
}

static void handle(struct client *client, uint32_t events) {
    if (client->state == ENDED)
        return;
    if (events & EPOLLOUT) {
        watch(client, EPOLL_CTL_MOD, EPOLLIN);
        if (client->state == CONNECTING) {
            if (!request(client)) {
                end(client);
                return;
            }
            client->state = UPGRADING;
        } else {
            flush(client);
        }
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(client);
}

static void poll_until(double until) {
    struct epoll_event events[256];
    do {
        double left = until - now();
        struct timespec wait = {0, 0};
        if (left > 0) {
            wait.tv_sec = (time_t)left;
            wait.tv_nsec = (long)((left - wait.tv_sec) * 1e9);
        }
        int count = epoll_pwait2(poller, events, 256, &wait, NULL);
        for (int i = 0; i < count; i++)
            handle(events[i].data.ptr, events[i].events);
    } while (now() < until);
}

static int compare(const void *left, const void *right) {
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

static double percentile_ms(float *values, size_t count, double percent) {
    if (!count)
        return 0;
    size_t place = count * percent / 100;
    return 1000 * values[place < count ? place : count - 1];
}

static double option(int argc, char **argv, const char *name, double otherwise) {
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], name))
            return atof(argv[i + 1]);
    return otherwise;
}

static const char *text_option(int argc, char **argv, const char *name, const char *otherwise) {
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], name))
            return argv[i + 1];
    return otherwise;
}

static void read_sessions(const char *name, size_t limit) {
    FILE *file = fopen(name, "r");
    if (!file)
        die(name);
    sessions = calloc(limit, sizeof *sessions);
    while (session_count < limit && fgets(sessions[session_count], sizeof *sessions, file))
        session_count++;
    fclose(file);
}

static void make_frame(size_t size) {
    frame = calloc(1, size + 14);
    size_t head = 2;
    frame[0] = 0x82;
    if (size < 126) {
        frame[1] = 0x80 | size;
    } else if (size < 65536) {
        frame[1] = 0x80 | 126, frame[2] = size >> 8, frame[3] = size & 255, head = 4;
    } else {
        frame[1] = 0x80 | 127, head = 10;
        for (int i = 0; i < 8; i++)
            frame[2 + i] = (uint64_t)size >> (56 - 8 * i) & 255;
    }
    head += 4;
    for (size_t i = 0; i < size; i++)
        frame[head + i] = (i * 2654435761u) >> 13;
    frame_bytes = head + size;
}

static void close_crowd(int from, int to) {
    static const char text[] = "{\"type\":\"control\",\"action\":\"close_session\"}";
    unsigned char message[6 + sizeof text - 1] = {0x81, 0x80 | (sizeof text - 1)};
    memcpy(message + 6, text, sizeof text - 1);
    for (int i = from; i < to; i++)
        if (clients[i].state == OPEN)
            send(clients[i].handle, message, sizeof message, MSG_NOSIGNAL);
}

static double cpu_seconds(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv) {
    int count = option(argc, argv, "--connections", 1), crowd = option(argc, argv, "--crowd", 0);
    double interval = option(argc, argv, "--interval-ms", 100) / 1000, seconds = option(argc, argv, "--seconds", 5);
    double warm = option(argc, argv, "--warmup", 1), crowd_at = option(argc, argv, "--crowd-at", 1);
    double close_at = option(argc, argv, "--crowd-close-at", 0);
    int opening = option(argc, argv, "--opening-at-once", OPENING_AT_ONCE);
    port = option(argc, argv, "--port", 8000);
    make_frame(option(argc, argv, "--bytes", 3200));
    path = text_option(argc, argv, "--path", "/");
    const char *known = text_option(argc, argv, "--sessions", NULL);
    if (known)
        read_sessions(known, count);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    clients = calloc(count + crowd, sizeof *clients);
    latency_limit = (size_t)((seconds + 2) / interval + 2) * count;
    latencies = malloc(latency_limit * sizeof *latencies);
    crowd_latencies = malloc(latency_limit * sizeof *crowd_latencies);
    poller = epoll_create1(0);

    double opening_from = now();
    for (int begun = 0, greeted = 0; greeted < count;) {
        int failed = 0;
        for (greeted = 0; greeted < begun && clients[greeted].state >= OPEN; greeted++)
            failed += clients[greeted].state == ENDED;
        int pending = 0;
        for (int i = greeted; i < begun; i++)
            pending += clients[i].state < OPEN;
        for (; begun < count && pending < opening; pending++)
            begin(&clients[begun++], 0);
        poll_until(now() + 0.001);
        if (failed || now() - opening_from > 120) {
            fprintf(stderr, "%d of %d connections failed, %d are open\n", failed, count, greeted);
            return 1;
        }
    }
    double opened_in = now() - opening_from;

    double start = now() + 0.01, cpu_from = 0;
    measure_from = start + warm;
    double until = measure_from + seconds;
    long turn = 0;
    for (double due; (due = start + turn * interval / count) < until; turn++) {
        poll_until(due);
        if (!cpu_from && due >= measure_from)
            cpu_from = cpu_seconds();
        if (crowd && !crowd_from && due >= measure_from + crowd_at) {
            crowd_from = due;
            for (int i = 0; i < crowd; i++)
                begin(&clients[count + i], 1);
        }
        if (crowd_from && !crowd_until && crowd_greeted + rejected >= crowd)
            crowd_until = now();
        if (close_at && !close_from && crowd_until && due >= measure_from + close_at) {
            close_from = due;
            close_crowd(count, count + crowd);
        }
        if (close_from && !close_until && crowd_closed >= crowd)
            close_until = now();
        is_due(&clients[turn % count], due);
    }
    double used = cpu_seconds() - cpu_from;
    long behind = 0, ended = 0;
    for (int i = 0; i < count; i++)
        behind += clients[i].count, ended += clients[i].state == ENDED;
    double patience = now() + 30;
    for (long left = behind; left && now() < patience;) {
        poll_until(now() + 0.02);
        left = 0;
        for (int i = 0; i < count; i++)
            left += clients[i].state == OPEN ? clients[i].count : 0;
    }

    qsort(latencies, latency_count, sizeof *latencies, compare);
    qsort(crowd_latencies, crowd_latency_count, sizeof *crowd_latencies, compare);
    float *openings = malloc((crowd + 1) * sizeof *openings);
    size_t opened = 0;
    for (int i = count; i < count + crowd; i++)
        if (clients[i].greeted)
            openings[opened++] = clients[i].greeted - clients[i].began;
    qsort(openings, opened, sizeof *openings, compare);
    printf("{\"sent\": %ld, \"answered\": %ld, \"behind\": %ld, \"ended\": %ld, \"rejected\": %ld, "
           "\"opened_in_seconds\": %.3f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, "
           "\"generator_us_per_message\": %.2f",
           sent, answered, behind, ended, rejected, opened_in, percentile_ms(latencies, latency_count, 50),
           percentile_ms(latencies, latency_count, 99), percentile_ms(latencies, latency_count, 100),
           sent ? 1e6 * used / sent : 0);
    if (crowd)
        printf(", \"crowd\": {\"opened\": %zu, \"seconds\": %.3f, \"per_second\": %.1f, \"p50_ms\": %.3f, "
               "\"p99_ms\": %.3f, \"others_messages\": %zu, \"others_p50_ms\": %.3f, \"others_p99_ms\": %.3f, "
               "\"closed\": %ld, \"closing_seconds\": %.3f}",
               opened, crowd_until ? crowd_until - crowd_from : 0, crowd_until ? opened / (crowd_until - crowd_from) : 0,
               percentile_ms(openings, opened, 50), percentile_ms(openings, opened, 99), crowd_latency_count,
               percentile_ms(crowd_latencies, crowd_latency_count, 50),
               percentile_ms(crowd_latencies, crowd_latency_count, 99), crowd_closed,
               close_until ? close_until - close_from : 0);
    printf("}\n");
    return 0;
}
