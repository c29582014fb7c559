/* The yardstick: what a relay costs in C. It forwards what the relay forwards, with recvmmsg and sendmmsg, the same
 * 32-byte header and the same look-ups by client address and by header, over flows that it reads from a file.
 *
 *     forwarder FLOWS MEDIA_PORT LINK_PORT
 *
 * A record of FLOWS: client sockaddr_in (16), owner sockaddr_in (16), uplink header (32), downlink header (32). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 64, BUFFER = 2048, HEADER = 32, SLOTS = 1 << 16 };

struct flow {
    struct sockaddr_in client, owner;
    unsigned char up[HEADER], down[HEADER];
};

static struct flow *by_client[SLOTS], *by_header[SLOTS];
static unsigned char buffers[BATCH][BUFFER];
static struct sockaddr_in names[BATCH];
static struct iovec in_vectors[BATCH], out_vectors[BATCH][2];
static struct mmsghdr in[BATCH], out[BATCH];

static uint32_t mix(uint64_t value) {
    value *= 0x9E3779B97F4A7C15ull;
    return (uint32_t)(value >> 48) & (SLOTS - 1);
}

static uint32_t client_slot(const struct sockaddr_in *client) {
    return mix((uint64_t)client->sin_addr.s_addr << 16 | client->sin_port);
}

static uint32_t header_slot(const unsigned char *header) {
    uint64_t tag;
    memcpy(&tag, header + HEADER - 8, 8);
    return mix(tag);
}

static int same_address(const struct sockaddr_in *a, const struct sockaddr_in *b) {
    return a->sin_port == b->sin_port && a->sin_addr.s_addr == b->sin_addr.s_addr;
}

static struct flow *find_client(const struct sockaddr_in *client) {
    for (uint32_t slot = client_slot(client); by_client[slot]; slot = (slot + 1) & (SLOTS - 1))
        if (same_address(&by_client[slot]->client, client)) return by_client[slot];
    return NULL;
}

static struct flow *find_header(const unsigned char *header) {
    for (uint32_t slot = header_slot(header); by_header[slot]; slot = (slot + 1) & (SLOTS - 1))
        if (!memcmp(by_header[slot]->down, header, HEADER)) return by_header[slot];
    return NULL;
}

static void load(const char *name) {
    FILE *file = fopen(name, "rb");
    struct flow flow;
    if (!file) { perror(name); exit(1); }
    while (fread(&flow, sizeof flow, 1, file) == 1) {
        struct flow *kept = malloc(sizeof flow);
        uint32_t slot = client_slot(&flow.client);
        *kept = flow;
        while (by_client[slot]) slot = (slot + 1) & (SLOTS - 1);
        by_client[slot] = kept;
        slot = header_slot(flow.down);
        while (by_header[slot]) slot = (slot + 1) & (SLOTS - 1);
        by_header[slot] = kept;
    }
    fclose(file);
}

static int open_socket(int port) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), size = 8 << 20;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    if (bind(fd, (struct sockaddr *)&address, sizeof address)) { perror("bind"); exit(1); }
    return fd;
}

static void forward(int from, int to, int uplink) {
    int count = recvmmsg(from, in, BATCH, MSG_DONTWAIT, NULL), ready = 0;
    for (int i = 0; i < count; i++) {
        unsigned length = in[i].msg_len;
        struct flow *flow;
        struct msghdr *message = &out[ready].msg_hdr;
        if (uplink) {
            if (!(flow = find_client(&names[i]))) continue;
            out_vectors[ready][0] = (struct iovec){flow->up, HEADER};
            out_vectors[ready][1] = (struct iovec){buffers[i], length};
            message->msg_name = &flow->owner;
            message->msg_iovlen = 2;
        } else {
            if (length < HEADER || !(flow = find_header(buffers[i])) || !same_address(&flow->owner, &names[i])) continue;
            out_vectors[ready][0] = (struct iovec){buffers[i] + HEADER, length - HEADER};
            message->msg_name = &flow->client;
            message->msg_iovlen = 1;
        }
        message->msg_namelen = sizeof flow->client;
        message->msg_iov = out_vectors[ready++];
    }
    for (int done = 0, sent; done < ready; done += sent > 0 ? sent : 1)
        sent = sendmmsg(to, out + done, ready - done, MSG_DONTWAIT);
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    load(argv[1]);
    int media = open_socket(atoi(argv[2])), link = open_socket(atoi(argv[3])), poll = epoll_create1(0);
    struct epoll_event events[2] = {{.events = EPOLLIN, .data.fd = media}, {.events = EPOLLIN, .data.fd = link}};
    epoll_ctl(poll, EPOLL_CTL_ADD, media, &events[0]);
    epoll_ctl(poll, EPOLL_CTL_ADD, link, &events[1]);
    for (int i = 0; i < BATCH; i++) {
        in_vectors[i] = (struct iovec){buffers[i], BUFFER};
        in[i].msg_hdr = (struct msghdr){.msg_name = &names[i], .msg_namelen = sizeof names[i], .msg_iov = &in_vectors[i], .msg_iovlen = 1};
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(poll, events, 2, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == media) forward(media, link, 1);
            else forward(link, media, 0);
        }
    }
}
