/* The attacker: sends datagrams to a port of 127.0.0.1 from source addresses that are not its own, at a steady rate.
 *
 *     flood PLAN PORT RATE COUNT REPORT
 *
 * PLAN begins with the sources: first address u32, addresses u32, first port u16, ports u16, in host byte order. They are
 * used in turn, address by address, and every address is a loopback one, or nothing is sent. Datagrams follow, each
 * behind its length as u16, and are used in turn too. REPORT gets, for each source in order, the bytes sent as u32.
 * Prints how many packets were sent and how many seconds that took. Needs CAP_NET_RAW. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 32, MAX_TEMPLATES = 4096, MAX_COUNT = 2000000, MAX_SIZE = 1500, LOOPBACK = 127, LATE_NS = 20000000 };

struct sources { uint32_t address, addresses; uint16_t port, ports; };
struct datagram { uint16_t size; unsigned char data[MAX_SIZE]; };
struct head { struct iphdr ip; struct udphdr udp; };

static struct datagram datagrams[MAX_TEMPLATES];
static struct head heads[BATCH];
static struct iovec vectors[BATCH][2];
static struct mmsghdr messages[BATCH];

static uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static int read_plan(const char *name, struct sources *sources) {
    FILE *file = fopen(name, "rb");
    int count = 0;
    if (!file || fread(sources, sizeof *sources, 1, file) != 1) return 0;
    while (count < MAX_TEMPLATES && fread(&datagrams[count].size, 2, 1, file) == 1) {
        if (datagrams[count].size > MAX_SIZE) return 0;
        if (fread(datagrams[count].data, 1, datagrams[count].size, file) != datagrams[count].size) return 0;
        count++;
    }
    fclose(file);
    return count;
}

static void prepare(int port, struct sockaddr_in *target) {
    *target = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int i = 0; i < BATCH; i++) {
        heads[i].ip = (struct iphdr){.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP, .daddr = target->sin_addr.s_addr};
        heads[i].udp.dest = htons(port);
        vectors[i][0] = (struct iovec){&heads[i], sizeof heads[i]};
        messages[i].msg_hdr = (struct msghdr){.msg_name = target, .msg_namelen = sizeof *target, .msg_iov = vectors[i], .msg_iovlen = 2};
    }
}

int main(int argc, char **argv) {
    struct sources sources;
    struct sockaddr_in target;
    int templates = argc == 6 ? read_plan(argv[1], &sources) : 0;
    if (!templates || !sources.addresses || !sources.ports) return fputs("flood: no plan\n", stderr), 2;
    uint64_t last = (uint64_t)sources.address + sources.addresses - 1, total = strtoull(argv[4], NULL, 10);
    if (sources.address >> 24 != LOOPBACK || last >> 24 != LOOPBACK) return fputs("flood: loopback only\n", stderr), 2;
    if (total > MAX_COUNT) return fputs("flood: too many\n", stderr), 2;
    uint32_t size = sources.addresses * sources.ports, *bytes = calloc(size, sizeof *bytes);
    int fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    if (fd < 0) return perror("flood: raw socket"), 1;
    prepare(atoi(argv[2]), &target);
    uint64_t gap = 1e9 * BATCH / atof(argv[3]), sent = 0, begin = clock_ns();
    for (uint64_t next = begin; sent < total;) {
        int count = total - sent < BATCH ? total - sent : BATCH;
        for (int i = 0; i < count; i++) {
            uint64_t number = (sent + i) % size;
            struct datagram *datagram = &datagrams[(sent + i) % templates];
            heads[i].ip.saddr = htonl(sources.address + number % sources.addresses);
            heads[i].udp.source = htons(sources.port + number / sources.addresses);
            heads[i].udp.len = htons(sizeof heads[i].udp + datagram->size);
            vectors[i][1] = (struct iovec){datagram->data, datagram->size};
        }
        int done = sendmmsg(fd, messages, count, 0);
        if (done < 0) return perror("flood: send"), 1;
        for (int i = 0; i < done; i++) bytes[(sent + i) % size] += vectors[i][1].iov_len;
        sent += done;
        next += gap;
        uint64_t now = clock_ns();
        if (now > next + LATE_NS) next = now; /* what was not sent in time is not made up for in one heap */
        struct timespec until = {next / 1000000000, next % 1000000000};
        if (now < next) clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
    double seconds = (clock_ns() - begin) / 1e9;
    FILE *report = fopen(argv[5], "wb");
    if (!report || fwrite(bytes, sizeof *bytes, size, report) != size || fclose(report)) return perror("flood: report"), 1;
    printf("%lu %.6f\n", sent, seconds);
    return 0;
}
