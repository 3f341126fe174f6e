/* A program in C that asks a MessageHandler, by ZeroMQ and without HTTP: it sends each line of its input, and prints
   what comes back.

       gcc -O2 -Wall -o language/peer language/peer.c -lzmq
       echo 'to be or not to be' | language/peer tcp://127.0.0.1:9997 tcp://127.0.0.1:9996 @words

   To our application it looks like a Mongrel2 with these addresses for its send_spec and recv_spec, with a client that
   writes to the message socket @words. A question goes as
       SENDER NUMBER ROUTE LENGTH:HEADERS,LENGTH:BODY,      (METHOD is JSON for such sockets, whatever the body is)
   and its answer, which is the bare value, comes as
       SENDER LENGTH:NUMBER, ANSWER */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#define HEADERS "{\"METHOD\":\"JSON\"}"
#define PATIENCE 10000 /* milliseconds */

/* Where the payload begins if this is the answer to question `number`; NULL for what else comes, such as the word that
   our application still works on it ("X" before the number). The message ends with a NUL here. */
static char *find_payload(char *message, unsigned long number)
{
    char expected[60], digits[30];
    snprintf(digits, sizeof digits, "%lu", number);
    snprintf(expected, sizeof expected, "peer %zu:%s, ", strlen(digits), digits);
    return strncmp(message, expected, strlen(expected)) == 0 ? message + strlen(expected) : NULL;
}

/* Print the answer to question `number`; whether there was one in time. */
static int print_answer(void *sub, unsigned long number)
{
    zmq_pollitem_t item = {sub, 0, ZMQ_POLLIN, 0};
    int found = 0;
    while (!found && zmq_poll(&item, 1, PATIENCE) > 0) {
        zmq_msg_t message;
        zmq_msg_init(&message);
        if (zmq_msg_recv(&message, sub, 0) >= 0) {
            size_t size = zmq_msg_size(&message);
            char *text = calloc(size + 1, 1);
            if (text != NULL) {
                memcpy(text, zmq_msg_data(&message), size);
                char *payload = find_payload(text, number);
                if (payload != NULL) {
                    fwrite(payload, 1, size - (payload - text), stdout);
                    putchar('\n');
                    fflush(stdout);
                    found = 1;
                }
            }
            free(text);
        }
        zmq_msg_close(&message);
    }
    return found;
}

/* Wait until our application is there, whether it comes in time. Both sockets must be waited for: a SUB says what it
   subscribes to only while somebody looks at it, and until then our application, which waits for that, asks nothing. */
static int is_connected(void *push, void *sub)
{
    zmq_pollitem_t items[] = {{push, 0, ZMQ_POLLOUT, 0}, {sub, 0, ZMQ_POLLIN, 0}};
    while (zmq_poll(items, 2, PATIENCE) > 0) {
        if (items[0].revents)
            return 1;
        zmq_recv(sub, NULL, 0, ZMQ_DONTWAIT); /* to an earlier question: nobody waits for it any more */
    }
    return 0;
}

static void *bound(void *context, int type, const char *address)
{
    int no = 0;
    void *socket = zmq_socket(context, type);
    zmq_setsockopt(socket, ZMQ_LINGER, &no, sizeof no);
    if (zmq_bind(socket, address) != 0) {
        fprintf(stderr, "peer: %s: %s\n", address, zmq_strerror(zmq_errno()));
        exit(2);
    }
    return socket;
}

int main(int count, char **arguments)
{
    static char line[10000], question[11000];
    if (count != 4) {
        fprintf(stderr, "usage: %s SEND_SPEC RECV_SPEC ROUTE\n", arguments[0]);
        return 2;
    }
    void *context = zmq_ctx_new();
    void *sub = bound(context, ZMQ_SUB, arguments[2]);
    void *push = bound(context, ZMQ_PUSH, arguments[1]);
    zmq_setsockopt(sub, ZMQ_SUBSCRIBE, "peer", 4);

    for (unsigned long number = 1; fgets(line, sizeof line, stdin) != NULL; number++) {
        line[strcspn(line, "\n")] = '\0';
        int size = snprintf(question, sizeof question, "peer %lu %.100s %zu:%s,%zu:%s,", number, arguments[3],
                            strlen(HEADERS), HEADERS, strlen(line), line);
        if (!is_connected(push, sub) || zmq_send(push, question, size, 0) != size || !print_answer(sub, number)) {
            fprintf(stderr, "peer: no answer\n");
            return 1;
        }
    }
    zmq_close(push);
    zmq_close(sub);
    zmq_ctx_term(context);
    return 0;
}
