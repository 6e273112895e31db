// Reset of the core from the reset that AMD's shells and block designs give: low is active, and it
// may fall at any time. It is asserted at once and released with the clock.
`default_nettype none

module skipstone_reset #(
    parameter STAGES = 3  // registers in a row, at least 2
) (
    input  wire clk,
    input  wire rst_n,
    output wire rst
);
    generate
        if (STAGES < 2) begin : invalid
            $error("STAGES must be at least 2");
        end
    endgenerate

    (* ASYNC_REG = "TRUE" *) reg [STAGES-1:0] held;

    initial held = {STAGES{1'b1}};

    always @(posedge clk or negedge rst_n) begin
        if (!rst_n) held <= {STAGES{1'b1}};
        else held <= {held[STAGES-2:0], 1'b0};
    end

    assign rst = held[STAGES-1];
endmodule

`default_nettype wire
