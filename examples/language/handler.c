/* A handler for Mongrel2, in C: it counts prime numbers below /c/primes/NUMBER, beside our application.

       gcc -O2 -Wall -o language/handler language/handler.c -lzmq
       language/handler tcp://127.0.0.1:9989 tcp://127.0.0.1:9988

   The addresses are the send_spec and the recv_spec of its Handler in mongrel2.conf. A request comes as
       SENDER CONN_ID PATH LENGTH:HEADERS,LENGTH:BODY,      (HEADERS is JSON)
   and an answer, which is HTTP as it stands, goes as
       SENDER LENGTH:CONN_ID, ANSWER                        (an empty one has Mongrel2 close the connection) */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#define LIMIT 200000

struct request { char *sender, *conn_id, *path, *headers; };

/* Cut a message, which ends with a NUL here, into its parts; whether it is a request. */
static int parse(char *message, struct request *request)
{
    char **parts[] = {&request->sender, &request->conn_id, &request->path};
    for (int index = 0; index < 3; index++) {
        char *end = strchr(message, ' ');
        if (end == NULL || end == message || end - message > 10000)
            return 0;
        *end = '\0';
        *parts[index] = message;
        message = end + 1;
    }
    size_t left = strlen(message);
    unsigned long length = strtoul(message, &request->headers, 10);
    if (request->headers == message || *request->headers != ':' || length >= left)
        return 0;
    request->headers++;
    if (length >= strlen(request->headers) || request->headers[length] != ',')
        return 0;
    request->headers[length] = '\0';
    return request->path[0] == '/'; /* messages about connections have @* for a path */
}

static int count_primes(int below)
{
    int count = 0;
    for (int number = 2; number < below; number++) {
        int divisor = 2;
        while (divisor * divisor <= number && number % divisor != 0)
            divisor++;
        count += divisor * divisor > number;
    }
    return count;
}

/* The whole answer, which is HTTP. It closes the connection, so that the next one need not be waited for. */
static void answer(const struct request *request, char *text, size_t size)
{
    char body[200];
    const char *status = "200 OK";
    char *end = "";
    /* Quotes inside of values are escaped in the JSON: no header that a client sends can pass for this one. */
    int is_head = strstr(request->headers, "\"METHOD\":\"HEAD\"") != NULL;
    long below = strncmp(request->path, "/c/primes/", 10) == 0 ? strtol(request->path + 10, &end, 10) : -1;

    if (!is_head && strstr(request->headers, "\"METHOD\":\"GET\"") == NULL) {
        status = "405 Method Not Allowed\r\nAllow: GET, HEAD";
        snprintf(body, sizeof body, "{\"error\":\"this is only to be read\"}");
    } else if (below < 0 || below > LIMIT || *end != '\0' || end == request->path + 10) {
        status = "404 Not Found";
        snprintf(body, sizeof body, "{\"error\":\"there are numbers from 0 to %d here\"}", LIMIT);
    } else {
        snprintf(body, sizeof body, "{\"language\":\"C\",\"below\":%ld,\"count\":%d}", below, count_primes((int)below));
    }
    snprintf(text, size,
             "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
             status, strlen(body), is_head ? "" : body);
}

/* Send a payload to the client of a request; whether it fitted into a message. */
static int reply(void *pub, const struct request *request, const char *payload)
{
    char message[12000];
    int size = snprintf(message, sizeof message, "%s %zu:%s, %s", request->sender, strlen(request->conn_id),
                        request->conn_id, payload);
    return size < (int)sizeof message && zmq_send(pub, message, size, 0) == size;
}

static void handle(void *pull, void *pub)
{
    zmq_msg_t message;
    struct request request;
    char payload[1000];

    zmq_msg_init(&message);
    if (zmq_msg_recv(&message, pull, 0) >= 0) {
        char *text = calloc(zmq_msg_size(&message) + 1, 1);
        if (text != NULL) {
            memcpy(text, zmq_msg_data(&message), zmq_msg_size(&message));
            if (parse(text, &request)) {
                answer(&request, payload, sizeof payload);
                reply(pub, &request, payload);
                reply(pub, &request, "");
            }
        }
        free(text);
    }
    zmq_msg_close(&message);
}

/* Whether Mongrel2 has just subscribed to our answers (1), taken that back (0), or neither (-1). */
static int subscription(void *pub, long milliseconds)
{
    unsigned char notice[256];
    zmq_pollitem_t item = {pub, 0, ZMQ_POLLIN, 0};
    if (zmq_poll(&item, 1, milliseconds) <= 0 || zmq_recv(pub, notice, sizeof notice, 0) < 1)
        return -1;
    return notice[0];
}

/* Serve one life of Mongrel2. Its connection ids begin again at 1 when it is restarted: what was meant for a client of
   the one before must reach nobody, and so each life has a pair of sockets of its own, which never connects again. */
static void serve(void *context, const char *requests, const char *answers)
{
    int never = -1, yes = 1, no = 0;
    void *pull = zmq_socket(context, ZMQ_PULL);
    void *pub = zmq_socket(context, ZMQ_XPUB); /* a PUB that is told who listens: an answer before that would be lost */
    for (int index = 0; index < 2; index++) {
        zmq_setsockopt(index ? pull : pub, ZMQ_RECONNECT_IVL, &never, sizeof never);
        zmq_setsockopt(index ? pull : pub, ZMQ_LINGER, &no, sizeof no);
    }
    zmq_setsockopt(pub, ZMQ_IMMEDIATE, &yes, sizeof yes); /* so that it is told when Mongrel2 goes, too */
    zmq_setsockopt(pub, ZMQ_XPUB_VERBOSER, &yes, sizeof yes);
    zmq_setsockopt(pub, ZMQ_XPUB_NODROP, &yes, sizeof yes); /* behind 1,000 answers the next one waits */
    if (zmq_connect(pub, answers) != 0) {
        fprintf(stderr, "handler: %s: %s\n", answers, zmq_strerror(zmq_errno()));
        exit(2);
    }
    if (subscription(pub, 500) == 1) {
        if (zmq_connect(pull, requests) != 0) {
            fprintf(stderr, "handler: %s: %s\n", requests, zmq_strerror(zmq_errno()));
            exit(2);
        }
        printf("connected to Mongrel2\n");
        zmq_pollitem_t items[] = {{pull, 0, ZMQ_POLLIN, 0}, {pub, 0, ZMQ_POLLIN, 0}};
        while (zmq_poll(items, 2, -1) >= 0) {
            if (items[1].revents && subscription(pub, 0) == 0)
                break; /* Mongrel2 has gone */
            if (items[0].revents)
                handle(pull, pub);
        }
    }
    zmq_close(pull);
    zmq_close(pub);
}

int main(int count, char **arguments)
{
    if (count != 3) {
        fprintf(stderr, "usage: %s SEND_SPEC RECV_SPEC\n", arguments[0]);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    void *context = zmq_ctx_new();
    for (;;)
        serve(context, arguments[1], arguments[2]);
}
