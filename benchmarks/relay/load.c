/* Clients and transceiver of a relay in one process: sends at a steady rate, half of it uplink and half downlink, evenly
 * spaced or in bursts, and counts what comes out at the other side and how long it took.
 *
 *     load FLOWS TRANSCEIVER_FD MEDIA_PORT LINK_PORT RATE BURST SECONDS
 *
 * A record of FLOWS: the descriptor of a client's socket as int (4), its downlink header (32). Sockets are inherited.
 * Prints: sent, received, and the median, 99th percentile and maximum of the delay in microseconds. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

enum { PAYLOAD = 160, HEADER = 32, MAX_FLOWS = 4096, BATCH = 64, BUCKETS = 20000, BUCKET_NS = 5000 };

struct flow {
    int fd;
    unsigned char header[HEADER];
} __attribute__((packed));

static struct flow flows[MAX_FLOWS];
static unsigned char buffers[BATCH][512];
static struct iovec vectors[BATCH];
static struct mmsghdr messages[BATCH];
static uint64_t received, delays[BUCKETS + 1], longest;

static uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void drain(int fd, int offset) {
    int count = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
    uint64_t now = clock_ns(), sent;
    for (int i = 0; i < count; i++) {
        if (messages[i].msg_len != (unsigned)(offset + PAYLOAD)) continue;
        memcpy(&sent, buffers[i] + offset + 8, 8);
        uint64_t delay = now - sent;
        delays[delay / BUCKET_NS < BUCKETS ? delay / BUCKET_NS : BUCKETS]++;
        if (delay > longest) longest = delay;
        received++;
    }
}

static void drain_all(int poll, int transceiver) {
    struct epoll_event events[BATCH];
    int count = epoll_wait(poll, events, BATCH, 0);
    for (int i = 0; i < count; i++) drain(events[i].data.fd, events[i].data.fd == transceiver ? HEADER : 0);
}

static double percentile(double share) {
    uint64_t seen = 0;
    for (int i = 0; i <= BUCKETS; i++)
        if ((seen += delays[i]) >= share * received) return (i + 0.5) * BUCKET_NS / 1000;
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 8) return 2;
    FILE *file = fopen(argv[1], "rb");
    int count = file ? (int)fread(flows, sizeof *flows, MAX_FLOWS, file) : 0;
    int transceiver = atoi(argv[2]), burst = atoi(argv[6]), poll = epoll_create1(0);
    struct sockaddr_in media = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[3])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in link = media;
    link.sin_port = htons(atoi(argv[4]));
    double rate = atof(argv[5]);
    uint64_t total = rate * atof(argv[7]), gap = 1e9 * burst / rate, sent = 0;
    unsigned char packet[HEADER + PAYLOAD] = {0};
    if (!count) return 1;
    packet[HEADER] = 0x80; /* RTP, version 2 */
    for (int i = 0; i <= count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = i < count ? flows[i].fd : transceiver};
        epoll_ctl(poll, EPOLL_CTL_ADD, event.data.fd, &event);
    }
    for (int i = 0; i < BATCH; i++) {
        vectors[i] = (struct iovec){buffers[i], sizeof buffers[i]};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
    }
    for (uint64_t next = clock_ns(); sent < total;) {
        if (clock_ns() < next) {
            drain_all(poll, transceiver);
            continue;
        }
        next += gap;
        for (int i = 0; i < burst; i++, sent++) {
            struct flow *flow = &flows[sent / 2 % count];
            uint64_t now = clock_ns();
            memcpy(packet + HEADER + 8, &now, 8);
            memcpy(packet, flow->header, HEADER);
            if (sent & 1) sendto(transceiver, packet, sizeof packet, 0, (struct sockaddr *)&link, sizeof link);
            else sendto(flow->fd, packet + HEADER, PAYLOAD, 0, (struct sockaddr *)&media, sizeof media);
        }
    }
    for (uint64_t end = clock_ns() + 100000000; clock_ns() < end;) drain_all(poll, transceiver);
    printf("%lu %lu %.0f %.0f %.0f\n", sent, received, percentile(0.5), percentile(0.99), longest / 1000.0);
    return 0;
}
