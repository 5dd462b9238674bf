/* A closed loop of requests over TLS, for closed_loop.py: each connection sends its request, waits for the complete
 * response and sends the next. It is written in C because a generator shares the processors with the measured server: in
 * Python it takes as long per request as the crypto service, and makes the faster side of a comparison appear slower.
 * For the same reason many connections are divided among one thread for each processor: while a single thread waits for
 * a processor, the processes of a server wait for their next requests.
 *
 *   generator PORT CONNECTIONS WARM_UP_SECONDS SECONDS kept|connecting http|ttlv SERVER_NAME CA_FILE
 *       [CERTIFICATE_FILE KEY_FILE]
 *
 * Reads the request from stdin. Writes the measured seconds and then the microseconds of each request, one per line,
 * without those of the warm-up. Ends with status 1 and a message when the server rejects a request.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { MOST_BYTES = 1 << 16, MOST_CONNECTIONS = 1024, PATIENCE_SECONDS = 20, TTLV_HEADER_BYTES = 8 };

struct connection {
    SSL *tls;
    int socket;
    double begun;
    size_t filled;
    unsigned char answer[MOST_BYTES];
};

static struct {
    struct sockaddr_in address;
    const char *server_name;
    bool is_http;
    bool in_turns;
    SSL_CTX *tls;
    unsigned char request[MOST_BYTES];
    size_t request_bytes;
} target;

struct share {
    pthread_t thread;
    int connections;
    double begin, end;
    double *latencies;
    size_t measured, room;
};

static void give_up(const char *why) {
    fprintf(stderr, "generator: %s\n", why);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec * 1e-9;
}

static void keep(struct share *share, double seconds) {
    if (share->measured == share->room) {
        share->room = share->room ? 2 * share->room : 1 << 16;
        share->latencies = realloc(share->latencies, share->room * sizeof *share->latencies);
        if (share->latencies == NULL) give_up("out of memory");
    }
    share->latencies[share->measured++] = seconds;
}

/* Returns the length of the response that starts like this; 0 while it is unknown. */
static size_t size_of(const struct connection *one) {
    const unsigned char *answer = one->answer;
    if (!target.is_http) {
        if (one->filled < TTLV_HEADER_BYTES) return 0;
        return TTLV_HEADER_BYTES + ((size_t)answer[4] << 24 | answer[5] << 16 | answer[6] << 8 | answer[7]);
    }
    const unsigned char *end = memmem(answer, one->filled, "\r\n\r\n", 4);
    if (end == NULL) return 0;
    for (const unsigned char *line = answer; line < end; line++) {
        line = memmem(line, end - line, "\r\n", 2);
        if (line == NULL) break;
        if (strncasecmp((const char *)line, "\r\ncontent-length:", 17) == 0)
            return end + 4 - answer + strtoul((const char *)line + 17, NULL, 10);
    }
    give_up("a response has no length");
    return 0;
}

static bool is_accepted(const struct connection *one) {
    static const unsigned char success[] = {0x42, 0x00, 0x7f, 0x05, 0, 0, 0, 4, 0, 0, 0, 0}; /* Result Status */
    if (target.is_http) return memcmp(one->answer, "HTTP/1.1 20", 11) == 0;
    return memmem(one->answer, one->filled, success, sizeof success) != NULL;
}

static void open_connection(struct connection *one) {
    int yes = 1;
    struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
    one->socket = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(one->socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(one->socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(one->socket, (struct sockaddr *)&target.address, sizeof target.address)) give_up("cannot connect");
    one->tls = SSL_new(target.tls);
    SSL_set_fd(one->tls, one->socket);
    SSL_set_tlsext_host_name(one->tls, target.server_name);
    X509_VERIFY_PARAM *wanted = SSL_get0_param(one->tls);
    if (!X509_VERIFY_PARAM_set1_ip_asc(wanted, target.server_name)) SSL_set1_host(one->tls, target.server_name);
    ERR_clear_error();
    if (SSL_connect(one->tls) != 1) give_up("no TLS connection");
}

static void close_connection(struct connection *one) {
    SSL_free(one->tls);
    close(one->socket);
}

static void ask(struct connection *one) {
    one->filled = 0;
    one->begun = now();
    /* A request is one record, and its response arrives before the next is written: the socket is never full. */
    if (SSL_write(one->tls, target.request, target.request_bytes) <= 0) give_up("cannot send");
}

/* Reads available data; returns whether the response is complete. */
static bool receive(struct connection *one) {
    for (;;) {
        int got = SSL_read(one->tls, one->answer + one->filled, MOST_BYTES - one->filled);
        if (got <= 0) {
            if (target.in_turns && SSL_get_error(one->tls, got) == SSL_ERROR_WANT_READ) return false;
            give_up("the server closed the connection, or did not respond in time");
        }
        one->filled += got;
        size_t size = size_of(one);
        if (size > MOST_BYTES) give_up("the response is too long");
        if (size != 0 && one->filled >= size) {
            if (!is_accepted(one)) give_up("the server rejected the request");
            return true;
        }
    }
}

/* One connection waits in the kernel for its response, as a client's thread does. */
static void ask_alone(struct share *share) {
    static struct connection only;
    open_connection(&only);
    for (double at = now(); at < share->end; at = now()) {
        ask(&only);
        while (!receive(&only)) continue;
        if (at >= share->begin) keep(share, now() - only.begun);
    }
    close_connection(&only);
}

static void ask_connecting(struct share *share) {
    static struct connection only;
    for (double at = now(); at < share->end; at = now()) {
        open_connection(&only);
        ask(&only);
        while (!receive(&only)) continue;
        close_connection(&only);
        if (at >= share->begin) keep(share, now() - at);
    }
}

/* The connections of one thread: one epoll reports the next response. */
static void *ask_in_turns(void *given) {
    struct share *share = given;
    struct connection *crowd = calloc(share->connections, sizeof *crowd);
    struct epoll_event ready[MOST_CONNECTIONS];
    int poll = epoll_create1(0);
    if (crowd == NULL) give_up("out of memory");
    for (int n = 0; n < share->connections; n++) {
        struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = &crowd[n]};
        open_connection(&crowd[n]);
        fcntl(crowd[n].socket, F_SETFL, O_NONBLOCK);
        epoll_ctl(poll, EPOLL_CTL_ADD, crowd[n].socket, &wanted);
        ask(&crowd[n]);
    }
    for (double at = now(); at < share->end; at = now()) {
        int found = epoll_wait(poll, ready, MOST_CONNECTIONS, 1000 * PATIENCE_SECONDS);
        if (found <= 0 && errno != EINTR) give_up("no response in time");
        for (int n = 0; n < found; n++) {
            struct connection *one = ready[n].data.ptr;
            if (!receive(one)) continue;
            if (at >= share->begin) keep(share, now() - one->begun);
            ask(one);
        }
    }
    for (int n = 0; n < share->connections; n++) close_connection(&crowd[n]);
    return NULL;
}

static void set_up_tls(char **files, bool has_certificate) {
    target.tls = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_verify(target.tls, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_read_ahead(target.tls, 1); /* one system call per record instead of two */
    if (SSL_CTX_load_verify_file(target.tls, files[0]) != 1) give_up("cannot read the CA");
    if (!has_certificate) return;
    if (SSL_CTX_use_certificate_chain_file(target.tls, files[1]) != 1 ||
        SSL_CTX_use_PrivateKey_file(target.tls, files[2], SSL_FILETYPE_PEM) != 1)
        give_up("cannot read the certificate or its key");
}

int main(int count, char **words) {
    if (count != 9 && count != 11) give_up("wrong arguments, see the start of generator.c");
    int connections = atoi(words[2]);
    double warm_up = atof(words[3]), seconds = atof(words[4]);
    if (connections < 1 || connections > MOST_CONNECTIONS) give_up("the number of connections is out of range");
    target.address = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(atoi(words[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    target.is_http = strcmp(words[6], "http") == 0;
    target.server_name = words[7];
    target.request_bytes = fread(target.request, 1, MOST_BYTES, stdin);
    set_up_tls(words + 8, count == 11);

    double begin = now() + warm_up, end = begin + seconds;
    int processors = sysconf(_SC_NPROCESSORS_ONLN);
    int threads = connections < processors ? connections : processors;
    struct share shares[MOST_CONNECTIONS] = {0};
    for (int n = 0; n < threads; n++)
        shares[n] = (struct share){
            .connections = connections / threads + (n < connections % threads), .begin = begin, .end = end};
    if (strcmp(words[5], "connecting") == 0) {
        ask_connecting(&shares[0]);
    } else if (connections == 1) {
        ask_alone(&shares[0]);
    } else {
        target.in_turns = true;
        for (int n = 0; n < threads; n++)
            if (pthread_create(&shares[n].thread, NULL, ask_in_turns, &shares[n])) give_up("cannot start a thread");
        for (int n = 0; n < threads; n++) pthread_join(shares[n].thread, NULL);
    }
    printf("%.6f\n", now() - begin);
    for (int n = 0; n < threads; n++)
        for (size_t one = 0; one < shares[n].measured; one++) printf("%.2f\n", 1e6 * shares[n].latencies[one]);
    return 0;
}
